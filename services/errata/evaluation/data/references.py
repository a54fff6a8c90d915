"""Reference texts about targets, for consistency: JSON lines with `target` and `text`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from errata.evaluation.data.fields import read_lines


def load_references(path: Path) -> Mapping[str, tuple[str, ...]]:
    """Reads texts by the target they are about.

    Raises:
        InvalidRequestError: the message names file, line and field.
    """
    found: dict[str, list[str]] = {}
    for fields in read_lines(path):
        found.setdefault(fields.text("target"), []).append(fields.text("text"))
    return {target: tuple(texts) for target, texts in found.items()}
