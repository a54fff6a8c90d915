"""Prepares and applies log entries; the only path from an entry to its effect.

Preparing waits while artifacts are unavailable: a store outage must not take a replica out of
rotation.
"""

from __future__ import annotations

from dataclasses import dataclass

from errata.editing.lane.swap import Change
from errata.log.chain import Position
from errata.log.entries import Entry
from errata.platform.retry import until_available
from errata.replica.applier import Applier


@dataclass(frozen=True, eq=False, slots=True)
class PreparedEntry:
    """An entry whose effect is ready to be applied.

    Attributes:
        entry: decoded.
        position: the replica's position once the effect is applied.
        change: the effect; None if the entry has none.
        is_last: whether the entry is the last one of its batch.
    """

    entry: Entry
    position: Position
    change: Change | None
    is_last: bool

    def apply(self) -> None:
        """Applies the effect, if there is one."""
        if self.change is not None:
            self.change.apply()

    @property
    def alters_weights(self) -> bool:
        """Whether the effect changes matrices that every row of a batch reads."""
        return self.change is not None and self.change.alters_weights


async def prepare(applier: Applier, entry: Entry) -> Change | None:
    """Prepares an entry's effect; retries until its artifacts are available.

    Raises:
        ErrataError: as `Applier.prepare`, except UnavailableError.
    """
    return await until_available(lambda: applier.prepare(entry), "artifacts")


async def apply(applier: Applier, entry: Entry) -> bool:
    """Prepares and applies an entry; returns whether it had an effect.

    Raises:
        ErrataError: as `prepare`. Nothing changed.
    """
    change = await prepare(applier, entry)
    if change is None:
        return False
    change.apply()
    return True
