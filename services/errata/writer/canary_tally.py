"""Adds up what replicas count for the open canaries.

A replica's counts grow for as long as it lives, and no other replica ever has its name. So the
largest counts that it reported are its newest, whichever log service still lists older ones, and
they stay in the sum when it goes. What an earlier writer alone had seen is not in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from errata.log.canary_entries import CanaryComparison


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """What a replica has counted since it started.

    Attributes:
        replica: its name.
        canaries: its counts, by the names of the canaries.
    """

    replica: str
    canaries: Mapping[str, CanaryComparison]


class CanaryTally:
    """The sums over all replicas."""

    def __init__(self) -> None:
        """Has heard nothing."""
        self._most: defaultdict[str, dict[str, CanaryComparison]] = defaultdict(dict)

    def note(self, opened: Mapping[str, int], reports: Iterable[CanaryReport]) -> None:
        """Takes in reports, and forgets canaries that are not open.

        Args:
            opened: the open canaries → position of the entry that opened them.
            reports: of all replicas; what they counted for other positions is left out.
        """
        for name in [*self._most.keys() - opened.keys()]:
            del self._most[name]
        for report in reports:
            for name, counted in report.canaries.items():
                if opened.get(name) == counted.opened_seq:
                    most = self._most[name]
                    most[report.replica] = most.get(report.replica, counted).most(counted)

    def of(self, name: str) -> CanaryComparison | None:
        """What was counted for an open canary; None if nothing was reported."""
        parts = [*self._most.get(name, {}).values()]
        if not parts:
            return None
        total = CanaryComparison(parts[0].opened_seq)
        for part in parts:
            total += part
        return total
