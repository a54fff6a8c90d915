"""Adds up what replicas count for the open canaries.

A replica's counts grow for as long as it lives, and no other replica ever has its name. So the
largest counts that it reported are its newest, whichever log service still lists older ones, and
they stay in the sum when it goes. What an earlier writer alone had seen is not in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from errata.log.canary_entries import CanaryComparison
from errata.writer.canary_book import CanaryRecord


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """What a replica has counted since it started.

    Attributes:
        replica: its name.
        canaries: its counts, by the names of the canaries.
    """

    replica: str
    canaries: Mapping[str, CanaryComparison]


@dataclass(frozen=True, slots=True)
class _Before:
    """What does not count for the present audience of a canary.

    Attributes:
        audience_time: since when it has this audience.
        requests: by replica, those in it that the first report under this audience has.
    """

    audience_time: datetime
    requests: dict[str, int] = field(default_factory=dict)


class CanaryTally:
    """The sums over all replicas."""

    def __init__(self) -> None:
        """Has heard nothing."""
        self._most: defaultdict[str, dict[str, CanaryComparison]] = defaultdict(dict)
        self._before: dict[str, _Before] = {}

    def note(self, canaries: Iterable[CanaryRecord], reports: Iterable[CanaryReport]) -> None:
        """Takes in reports, and forgets canaries that are not open.

        Args:
            canaries: those that are open.
            reports: of all replicas; what they counted for other positions is left out.
        """
        opened = {canary.name: canary for canary in canaries}
        for name in [*self._most.keys() - opened.keys()]:
            del self._most[name]
            self._before.pop(name, None)
        for report in reports:
            for name, counted in report.canaries.items():
                if name in opened and opened[name].opened_seq == counted.opened_seq:
                    most = self._most[name]
                    most[report.replica] = most.get(report.replica, counted).most(counted)
        for canary in opened.values():
            self._note_audience(canary)

    def _note_audience(self, canary: CanaryRecord) -> None:
        if canary.audience_time == canary.open_time:
            return  # it never had another one
        before = self._before.get(canary.name)
        if before is None or before.audience_time != canary.audience_time:
            before = self._before[canary.name] = _Before(canary.audience_time)
        # A replica that is heard of later may have counted under the earlier audience, too.
        for replica, counted in self._most.get(canary.name, {}).items():
            before.requests.setdefault(replica, counted.canary.requests)

    def recent_requests(self, name: str) -> int:
        """Requests in an open canary that surely came under its present audience."""
        parts = self._most.get(name, {})
        before = self._before[name].requests if name in self._before else {}
        return sum(
            counted.canary.requests - before.get(replica, 0) for replica, counted in parts.items()
        )

    def of(self, name: str) -> CanaryComparison | None:
        """What was counted for an open canary; None if nothing was reported."""
        parts = [*self._most.get(name, {}).values()]
        if not parts:
            return None
        total = CanaryComparison(parts[0].opened_seq)
        for part in parts:
            total += part
        return total
