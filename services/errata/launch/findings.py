"""Findings of `errata doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Grade = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        grade: `ok`, `warn` (it works, but needs attention) or `fail` (Errata cannot start).
        name: what was checked.
        found: its state.
        remedy: what to do; empty if nothing.
    """

    grade: Grade
    name: str
    found: str
    remedy: str = ""
