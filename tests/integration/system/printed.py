"""Compares outputs with what the documentation prints."""

from __future__ import annotations

import re


def matches(printed: str, said: str) -> bool:
    """Whether an output is as printed.

    In the printed text, `…` stands for any text within a line, and a line that is only `…` for any
    lines, or none. Blanks at the ends of lines do not count.
    """
    pattern = "".join(
        r"(?:.*\n)*" if line == "…" else f"{'.*'.join(map(re.escape, line.split('…')))}\n"
        for line in _lines(printed)
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(said))) is not None


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").split("\n")]
