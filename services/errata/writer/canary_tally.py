"""Adds up what replicas count for the open canaries.

A replica's counts grow for as long as its process lives. What a replica had counted before it went,
or before it started again, stays in the sum; so does not what an earlier writer alone had seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass

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
        self._last: defaultdict[str, dict[str, CanaryComparison]] = defaultdict(dict)
        self._before: dict[str, CanaryComparison] = {}  # of processes that ended

    def note(self, opened: Mapping[str, int], reports: Iterable[CanaryReport]) -> None:
        """Takes in the newest reports, and forgets canaries that are not open.

        A replica that changed between log services is listed twice for a while: the report that
        counts more is the newer one.

        Args:
            opened: the open canaries → position of the entry that opened them.
            reports: of all replicas; what they counted for other positions is left out.
        """
        for name in [*self._last.keys() - opened.keys()]:
            del self._last[name]
            self._before.pop(name, None)
        for (name, replica), counted in _newest(opened, reports).items():
            last = self._last[name].get(replica)
            if last is not None and _is_less(counted, last):
                before = self._before.get(name)
                self._before[name] = last if before is None else before + last
            self._last[name][replica] = counted

    def of(self, name: str) -> CanaryComparison | None:
        """What was counted for an open canary; None if nothing was reported."""
        parts = [*self._last.get(name, {}).values()]
        if name in self._before:
            parts.append(self._before[name])
        if not parts:
            return None
        total = CanaryComparison(parts[0].opened_seq)
        for part in parts:
            total += part
        return total


def _newest(
    opened: Mapping[str, int], reports: Iterable[CanaryReport]
) -> dict[tuple[str, str], CanaryComparison]:
    """By canary and replica, the counts of the report that counts most."""
    found: dict[tuple[str, str], CanaryComparison] = {}
    for report in reports:
        for name, counted in report.canaries.items():
            if opened.get(name) == counted.opened_seq:
                key = name, report.replica
                found[key] = max(found.get(key, counted), counted, key=_size)
    return found


def _size(counted: CanaryComparison) -> int:
    return counted.canary.requests + counted.rest.requests


def _is_less(counted: CanaryComparison, last: CanaryComparison) -> bool:
    """Whether a count has fallen: the replica's process is another one."""
    return any(
        now < then
        for arm, before in ((counted.canary, last.canary), (counted.rest, last.rest))
        for now, then in zip(astuple(arm), astuple(before), strict=True)
    )
