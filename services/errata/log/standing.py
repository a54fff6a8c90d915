"""The state of an edit as the log tells it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from errata.editing.namespaces import DEFAULT
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


class Known(NamedTuple):
    """An edit's lane, state and place (`edit.namespace`); all edits with the same ones share it."""

    lane: str
    standing: Standing
    namespace: str = DEFAULT


def not_revertible(name: str, known: Known) -> EditNotRevertibleError:
    """Why an edit cannot be reverted."""
    return EditNotRevertibleError(
        f"{name} is {known.standing}; only committed edits can be reverted.",
        edit=name,
        state=known.standing,
    )
