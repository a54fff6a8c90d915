"""Hides passwords in messages and tables."""

from __future__ import annotations

import re


def masked(text: str) -> str:
    """The text with `***` for each password inside a URL."""
    return re.sub(r"(://[^/:@]*):[^/@]*@", r"\1:***@", text)
