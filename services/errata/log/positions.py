"""The positions that replicas reported.

They are kept in memory, because replicas report again within seconds, and expire when a replica is
gone. Each log service knows only the replicas that report to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from errata.errors import LimitExceededError
from errata.log.chain import Position

MAX_REPLICAS = 10_000


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """A replica's report about itself.

    Attributes:
        replica: its unique name.
        position: the last applied entry, with the digest that the replica computed.
        state_digest: SHA-256, hex, of what its lanes hold.
        role: such as "worker".
        device_usage: by lane, sizes of what is on its device only while in use.
    """

    replica: str
    position: Position
    state_digest: str
    role: str
    device_usage: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """A report and the log's verdict on it.

    Attributes:
        report_time: seconds since 1970 by this machine's clock; for display only.
        agrees: whether the report's position is one of the log's.
    """

    report: ReplicaReport
    report_time: float
    agrees: bool


class ReplicaTable:
    """The replicas that reported within the last `ttl_seconds`."""

    def __init__(self, ttl_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts empty; `clock` is monotonic, in seconds."""
        self._ttl = ttl_seconds
        self._clock = clock
        self._states: dict[str, tuple[float, ReplicaState]] = {}

    def record(self, report: ReplicaReport, *, agrees: bool) -> None:
        """Replaces the replica's previous report.

        Raises:
            LimitExceededError: too many replicas reported recently; nothing was recorded.
        """
        self._expire()
        if report.replica not in self._states and len(self._states) >= MAX_REPLICAS:
            raise LimitExceededError(
                f"{MAX_REPLICAS:,} replicas reported within {self._ttl:g} s, which is the limit. "
                "Give each replica one permanent name.",
                field="position.replica",
            )
        state = ReplicaState(report, time.time(), agrees)
        self._states[report.replica] = (self._clock(), state)

    def live(self) -> list[ReplicaState]:
        """The replicas whose reports have not expired, sorted by name."""
        oldest = self._clock() - self._ttl
        kept = sorted(list(self._states.items()))  # any thread may call this
        return [state for _, (heard, state) in kept if heard >= oldest]

    def _expire(self) -> None:
        oldest = self._clock() - self._ttl
        self._states = {name: kept for name, kept in self._states.items() if kept[0] >= oldest}
