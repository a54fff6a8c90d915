"""The most recent states of a retrieval replica, each at one position of the log."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from errata.errors import SeqTrimmedError
from errata.log.chain import ORIGIN
from errata.replica.routing_table import RoutingTable


@dataclass(frozen=True, eq=False, slots=True)
class RoutingSnapshot:
    """The routing state at one position of the log.

    Attributes:
        seq: the position.
        chain_digest: H(seq), 32 bytes.
        state_digest: SHA-256, hex, of the contents of the lanes that route.
        routing: decides on prompts; None while no edit can claim any.
        num_edits: number of active edits of each lane that routes.
    """

    seq: int
    chain_digest: bytes
    state_digest: str
    routing: RoutingTable | None
    num_edits: Mapping[str, int]


class RoutingHistory:
    """The newest snapshots; workers ask for decisions at recent positions (P6)."""

    def __init__(self, replica: str, length: int) -> None:
        """Starts before the log's first entry.

        Args:
            replica: name, for messages.
            length: maximum number of snapshots.
        """
        self._replica = replica
        origin = RoutingSnapshot(ORIGIN.seq, ORIGIN.chain_digest, "", None, {})
        self._snapshots: deque[RoutingSnapshot] = deque([origin], maxlen=length)

    @property
    def latest(self) -> RoutingSnapshot:
        """The newest snapshot."""
        return self._snapshots[-1]

    @property
    def floor_seq(self) -> int:
        """The first position that `as_of` accepts."""
        return self._snapshots[0].seq

    def append(self, snapshot: RoutingSnapshot) -> None:
        """Adds the newest snapshot; drops the oldest one if there are too many."""
        self._snapshots.append(snapshot)

    def restart(self, snapshot: RoutingSnapshot) -> None:
        """Drops all snapshots and starts from this one."""
        self._snapshots.clear()
        self._snapshots.append(snapshot)

    def as_of(self, seq: int) -> RoutingSnapshot:
        """The state at position `seq`.

        Raises:
            SeqTrimmedError: the state at that position is no longer kept.
        """
        found = next((s for s in reversed(self._snapshots) if s.seq <= seq), None)
        if found is None:
            raise SeqTrimmedError(
                f"{self._replica} keeps the positions from {self.floor_seq:,} on and cannot decide "
                f"as of {seq:,}; request a later position.",
                field="at_seq",
                at_seq=seq,
                floor_seq=self.floor_seq,
            )
        return found
