"""Events: what happened to edits, canaries and replicas."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import quote

from errata.catalog.database import name_of, place_of


class Kind(StrEnum):
    """What happened. Values are the types of webhooks' events, without `errata.`."""

    REQUESTED = "edit.requested"
    PROPOSED = "edit.proposed"
    SCHEDULED = "edit.scheduled"
    APPROVED = "edit.approved"
    RELEASED = "edit.released"
    COMMITTED = "edit.committed"
    REJECTED = "edit.rejected"
    REVERTED = "edit.reverted"
    EXPIRED = "edit.expired"
    WITHDRAWN = "edit.withdrawn"
    REPLICA_LEFT = "replica.left"
    REPLICA_LAGGING = "replica.lagging"
    REPLICA_DISAGREES = "replica.disagrees"
    REPLICA_RETURNED = "replica.returned"
    CANARY_OPENED = "canary.opened"
    CANARY_CHANGED = "canary.changed"
    CANARY_PROMOTED = "canary.promoted"
    CANARY_ROLLED_BACK = "canary.rolled_back"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        number: the event's id in the database; events are in its order.
        kind: what happened.
        time: in microseconds since 1970.
        edit: the edit's id in the database; None for a canary and for a replica.
        lane: of the edit or the canary; empty for a replica.
        author: who did it; empty where nobody in particular did.
        comment: why.
        replica: its name; empty for an edit and for a canary.
        namespace: of the edit or the canary; empty for the default one and for a replica.
        canary: its name; empty for an edit and for a replica.
    """

    number: int
    kind: Kind
    time: int
    edit: int | None
    lane: str
    author: str
    comment: str
    replica: str
    namespace: str = ""
    canary: str = ""

    @property
    def seq(self) -> int:
        """The entry that records it, or the position at which a replica's was noticed."""
        return place_of(self.number)[0]

    @property
    def name(self) -> str:
        """Its resource name."""
        return name_of("events", self.number)

    @property
    def edit_name(self) -> str:
        """The edit's name; empty for a canary and for a replica."""
        return "" if self.edit is None else name_of("edits", self.edit)

    @property
    def when(self) -> datetime:
        """The time, with a zone."""
        return datetime.fromtimestamp(self.time / 1e6, UTC)

    def identity(self, log_id: str) -> str:
        """The same on every delivery, and in every catalog of the log but for a replica's event."""
        subject = self.edit_name or self.canary
        if subject:
            return f"{log_id}/{self.seq}/{subject}"
        place = self.name.removeprefix("events/")
        return f"{log_id}/{place}/{quote(self.replica, safe='')}"


def micros(time: datetime) -> int:
    """A time in microseconds since 1970."""
    since = time - datetime.fromtimestamp(0, UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
