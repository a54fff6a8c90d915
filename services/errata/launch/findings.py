"""What `errata doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Grade = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked.

    Attributes:
        grade: `ok`, `warn` (it works, but look at it) or `fail` (Errata cannot start).
        name: what was checked.
        found: what it is.
        remedy: what to do; empty if nothing.
    """

    grade: Grade
    name: str
    found: str
    remedy: str = ""
