from __future__ import annotations

import pytest

from errata.errors import LimitExceededError
from errata.log import positions
from errata.log.chain import ORIGIN, Position
from errata.log.positions import ReplicaReport, ReplicaTable


def report(name: str) -> ReplicaReport:
    return ReplicaReport(name, ORIGIN, "", "worker")


def test_silent_replicas_are_forgotten() -> None:
    now = 0.0
    table = ReplicaTable(30.0, clock=lambda: now)
    table.record(report("b"), agrees=True)
    now = 20.0
    table.record(report("a"), agrees=False)
    assert [state.report.replica for state in table.live()] == ["a", "b"]
    now = 40.0
    assert [(state.report.replica, state.agrees) for state in table.live()] == [("a", False)]


def test_too_many_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "MAX_REPLICAS", 2)
    table = ReplicaTable(30.0)
    for name in ("a", "b", "a"):
        table.record(report(name), agrees=True)
    with pytest.raises(LimitExceededError):
        table.record(report("c"), agrees=True)
    assert len(table.live()) == 2


def _moved(*moves: tuple[int, str]) -> ReplicaReport:
    seq, digest = moves[-1]
    return ReplicaReport("a", Position(seq, bytes(32)), digest, "worker", recent=moves)


def test_the_state_at_a_position_is_that_of_the_move_before() -> None:
    table = ReplicaTable(30.0)
    table.record(_moved((2, "two"), (5, "five")), agrees=True)
    assert [table.digest_at("a", seq) for seq in (1, 2, 4, 5)] == ["", "two", "two", "five"]
    assert table.digest_at("a", 6) == "", "it is not there yet"
    assert table.digest_at("b", 2) == ""
    table.record(_moved((5, "five"), (9, "nine")), agrees=True)
    assert [table.digest_at("a", seq) for seq in (4, 7, 9)] == ["two", "five", "nine"]


def test_a_gap_between_reports_is_not_bridged() -> None:
    table = ReplicaTable(30.0)
    table.record(_moved((2, "two"), (5, "five")), agrees=True)
    table.record(_moved((8, "eight"), (9, "nine")), agrees=True)
    assert [table.digest_at("a", seq) for seq in (5, 7, 8)] == ["", "", "eight"]
    table.record(ReplicaReport("a", Position(3, bytes(32)), "three", "worker"), agrees=True)
    assert [table.digest_at("a", seq) for seq in (3, 8)] == ["three", ""]


def test_nothing_is_remembered_of_a_replica_that_contradicts_the_log() -> None:
    table = ReplicaTable(30.0)
    table.record(_moved((2, "two")), agrees=True)
    table.record(_moved((2, "two"), (3, "three")), agrees=False)
    assert table.digest_at("a", 2) == ""


def test_the_oldest_moves_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "MAX_RECENT", 3)
    table = ReplicaTable(30.0)
    table.record(_moved((1, "a"), (2, "b")), agrees=True)
    table.record(_moved((2, "b"), (3, "c"), (4, "d")), agrees=True)
    assert [table.digest_at("a", seq) for seq in (1, 2, 4)] == ["", "b", "d"]
