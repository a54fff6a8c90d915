"""Schedules fits: the next lane, and which of its pending edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from errata.replica.open_lane import OpenLane
from errata.writer.batching import planned_batch
from errata.writer.ledger import EditLedger
from errata.writer.record import EditRecord


@dataclass(frozen=True, slots=True)
class Due:
    """What to fit now.

    Attributes:
        records: edits of one lane from which the batch is chosen; none if nothing is due.
        wait_seconds: until something is due, if nothing is due now.
    """

    records: Sequence[EditRecord]
    wait_seconds: float = 0.0

    def batch(self, lane: OpenLane) -> list[EditRecord]:
        """The batch; may take long, because a lane can group similar edits."""
        ordering = lane.lane.ordering
        if ordering is None:
            return list(self.records)
        edits = [record.edit for record in self.records]
        planned = planned_batch(ordering, lane.configured.config_digest, edits)
        names = {edit.name for edit in planned}
        return [record for record in self.records if record.edit.name in names]


def next_fit(
    ledger: EditLedger,
    lanes: Mapping[str, OpenLane],
    max_edits: int,
    alone: frozenset[str],
    now: datetime,
) -> Due:
    """The oldest edits that are due.

    A lane whose method gathers a window is due once the window is full or has waited long enough.

    Args:
        ledger: contains the pending edits.
        lanes: by name.
        max_edits: limits a batch, unless the method gathers windows.
        alone: edits that failed in a batch and are retried individually.
        now: the current time.
    """
    waits = []
    for name in ledger.pending_lanes():
        if name not in lanes:  # it could not be opened: its edits wait
            continue
        ordering = lanes[name].lane.ordering
        if ordering is None:
            if batch := ledger.next_batch(name, max_edits, alone):
                return Due(batch)
            continue
        window = ledger.window(name, alone)
        if not window:
            continue
        waited = (now - window[0].waits_since).total_seconds()
        left = ordering.max_wait_seconds - waited
        is_full = len(window) >= ordering.size
        if is_full or left <= 0 or window[0].edit.name in alone:
            return Due(window)
        waits.append(left)
    return Due((), min(waits, default=0.0))
