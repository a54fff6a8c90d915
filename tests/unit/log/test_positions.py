from __future__ import annotations

import pytest

from errata.errors import LimitExceededError
from errata.log import positions
from errata.log.chain import ORIGIN
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
