"""The times at which edits begin and end, earliest first."""

from __future__ import annotations

import heapq
from datetime import datetime

from errata.writer.record import EditRecord, order_of


class Agenda:
    """Begins and ends of edits that were noted and not yet taken.

    It does not follow what becomes of an edit: who takes a name looks at its state.
    """

    def __init__(self) -> None:
        """Holds none."""
        self._begins: list[tuple[datetime, tuple[int, int], str]] = []
        self._ends: list[tuple[datetime, tuple[int, int], str]] = []

    def note(self, record: EditRecord) -> None:
        """Adds the times of an edit; one that is noted twice is taken twice."""
        name = record.edit.name
        if record.times.effective_from is not None:
            item = (record.times.effective_from, order_of(name), name)
            heapq.heappush(self._begins, item)
        if record.times.expires_at is not None:
            heapq.heappush(self._ends, (record.times.expires_at, order_of(name), name))

    def has_due(self, now: datetime) -> bool:
        """Whether an edit begins or ends now, or should have before."""
        return any(times and times[0][0] <= now for times in (self._begins, self._ends))

    def take_due(self, now: datetime) -> tuple[list[str], list[str]]:
        """Takes out the edits that begin, and those that end, up to now; each in log order."""
        return _taken(self._begins, now), _taken(self._ends, now)


def _taken(times: list[tuple[datetime, tuple[int, int], str]], now: datetime) -> list[str]:
    names = set()
    while times and times[0][0] <= now:
        names.add(heapq.heappop(times)[2])
    return sorted(names, key=order_of)
