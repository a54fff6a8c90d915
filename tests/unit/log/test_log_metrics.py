"""Digest disagreements are counted where they are: against the log, and among peers."""

from __future__ import annotations

from errata.log.chain import Position
from errata.log.metrics import num_disagreeing
from errata.log.positions import ReplicaReport, ReplicaState


def _state(
    name: str, digest: str, *, seq: int = 5, role: str = "worker", agrees: bool = True
) -> ReplicaState:
    return ReplicaState(ReplicaReport(name, Position(seq, bytes(32)), digest, role), 0.0, agrees)


def test_peers_of_one_role_at_one_position_are_compared() -> None:
    same = [_state("a", "x"), _state("b", "x")]
    assert num_disagreeing(same) == 0
    assert num_disagreeing([*same, _state("c", "y")]) == 1
    assert num_disagreeing([*same, _state("c", "y", seq=6)]) == 0, "it is further"
    assert num_disagreeing([*same, _state("r", "y", role="retrieval")]) == 0, "it holds less"
    assert num_disagreeing([*same, _state("d", "x", agrees=False)]) == 1
