"""Results of searches and events: plain, frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from errata_client.edits import Edit


@dataclass(frozen=True, slots=True)
class FoundEdit:
    """An edit that a search found.

    Attributes:
        edit: in its state at `seq`.
        score: how well it matches the text: greater is better; 0 without a text.
        revert_comment: reason of its reversal; empty without one.
        seq: the position of the log that the answer is of.
    """

    edit: Edit
    score: float
    revert_comment: str
    seq: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an edit, a canary or a replica.

    Attributes:
        name: `events/{seq}-{index}`; as `after`, it continues a stream behind this event.
        id: the same for one event on every delivery, webhooks included.
        kind: `edit.requested`, `edit.proposed`, `edit.scheduled`, `edit.approved`, `edit.released`,
            `edit.committed`, `edit.rejected`, `edit.reverted`, `edit.expired`, `edit.withdrawn`,
            `replica.left`, `replica.lagging`, `replica.disagrees`, `replica.returned`,
            `canary.opened`, `canary.changed`, `canary.promoted` or `canary.rolled_back`; empty if
            this version of the SDK does not know it.
        seq: the log entry that records it; for a replica, where the catalog noticed it.
        time: when.
        edit: name of the edit; empty for a replica or a canary.
        lane: of the edit or the canary.
        author: who did it; empty where nobody in particular did.
        comment: why.
        replica: name of the replica; empty for an edit or a canary.
        namespace: of the edit or the canary; empty for the default one, and for a replica.
        canary: name of the canary; empty for an edit or a replica.
    """

    name: str
    id: str
    kind: str
    seq: int
    time: datetime
    edit: str
    lane: str
    author: str
    comment: str
    replica: str
    namespace: str = ""
    canary: str = ""


@dataclass(frozen=True, slots=True)
class ShapedCount:
    """How many answers an edit shaped.

    Attributes:
        edit: its name.
        answers: number of answers whose provenance names it.
        last_hour: begin of the hour in which the last of them was given.
    """

    edit: str
    answers: int
    last_hour: datetime
