"""The blocks of code of a Markdown page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Fence:
    """A block of code; language and title are empty if it has none."""

    language: str
    title: str
    text: str


def fences(page: Path) -> list[Fence]:
    """All blocks of a page, in order."""
    return [Fence(*found) for found in _FENCE.findall(page.read_text(encoding="utf-8"))]
