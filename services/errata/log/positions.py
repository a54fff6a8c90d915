"""The positions that replicas reported.

They are kept in memory, because replicas report again within seconds, and expire when a replica is
gone. Each log service knows only the replicas that report to it.
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from errata.errors import LimitExceededError
from errata.log.canary_entries import CanaryComparison
from errata.log.chain import Position

MAX_REPLICAS = 10_000
MAX_RECENT = 1_000
"""Most positions in one report, and most that are remembered of one replica."""


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """A replica's report about itself.

    Attributes:
        replica: its unique name.
        position: the last applied entry, with the digest that the replica computed.
        state_digest: SHA-256, hex, of what its lanes hold.
        role: such as "worker".
        device_usage: by lane, sizes of what is on its device only while in use.
        recent: the positions to which it moved, ascending, from the one of its last report on, each
            with the state digest there.
        canaries: what it counted for the open canaries since it started, by their names.
    """

    replica: str
    position: Position
    state_digest: str
    role: str
    device_usage: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    recent: tuple[tuple[int, str], ...] = ()
    canaries: Mapping[str, CanaryComparison] = field(default_factory=dict)


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


class Moves:
    """The last positions to which one replica moved; every change of its state is a move."""

    def __init__(self) -> None:
        """Knows none."""
        self._seqs: list[int] = []
        self._digests: list[str] = []

    def note(self, report: ReplicaReport) -> None:
        """Continues with a report that begins where the last one ended; else starts again."""
        recent = report.recent or ((report.position.seq, report.state_digest),)
        known = list(zip(self._seqs, self._digests, strict=True))
        known = known[:-1] if known and known[-1] == recent[0] else []
        kept = [*known, *recent][-MAX_RECENT:]
        if any(one[0] >= other[0] for one, other in itertools.pairwise(kept)):
            kept = [(report.position.seq, report.state_digest)]
        self._seqs, self._digests = [seq for seq, _ in kept], [digest for _, digest in kept]

    def digest_at(self, seq: int) -> str:
        """The digest at `seq`; empty if the replica is not there yet, or that is forgotten."""
        index = bisect.bisect_right(self._seqs, seq) - 1
        if index < 0 or self._seqs[-1] < seq:
            return ""
        return self._digests[index]


class ReplicaTable:
    """The replicas that reported within the last `ttl_seconds`."""

    def __init__(self, ttl_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts empty; `clock` is monotonic, in seconds."""
        self._ttl = ttl_seconds
        self._clock = clock
        self._states: dict[str, tuple[float, ReplicaState]] = {}
        self._moves: dict[str, Moves] = {}

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
        if agrees:
            self._moves.setdefault(report.replica, Moves()).note(report)
        else:
            self._moves.pop(report.replica, None)

    def live(self) -> list[ReplicaState]:
        """The replicas whose reports have not expired, sorted by name."""
        oldest = self._clock() - self._ttl
        kept = sorted(list(self._states.items()))  # any thread may call this
        return [state for _, (heard, state) in kept if heard >= oldest]

    def digest_at(self, replica: str, seq: int) -> str:
        """The state digest that a replica reported of position `seq`; empty if it is not known."""
        moves = self._moves.get(replica)
        return "" if moves is None else moves.digest_at(seq)

    def _expire(self) -> None:
        oldest = self._clock() - self._ttl
        self._states = {name: kept for name, kept in self._states.items() if kept[0] >= oldest}
        self._moves = {name: moves for name, moves in self._moves.items() if name in self._states}
