"""The state of an edit as the log tells it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from errata.errors import EditNotRevertibleError


class Standing(StrEnum):
    """The state of an edit as the log tells it."""

    PROPOSED = "proposed"
    SCHEDULED = "scheduled"
    REQUESTED = "requested"
    COMMITTED = "committed"
    REJECTED = "rejected"
    REVERTED = "reverted"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Known:
    """An edit's lane and state; edits of one entry share it."""

    lane: str
    standing: Standing


def not_revertible(name: str, known: Known) -> EditNotRevertibleError:
    """Why an edit cannot be reverted."""
    return EditNotRevertibleError(
        f"{name} is {known.standing}; only committed edits can be reverted.",
        edit=name,
        state=known.standing,
    )
