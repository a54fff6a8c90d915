"""What a list of replicas shows, compared with the one before."""

from __future__ import annotations

from errata.catalog.happenings import Event, Kind
from errata.catalog.log_convert import Reported
from errata.catalog.replica_watch import Health


def reported(name: str, lag: int = 0, agrees: bool = True) -> Reported:
    return Reported(name, "worker", lag, agrees)


def seen(events: list[Event]) -> list[tuple[str, Kind]]:
    return [(event.replica, event.kind) for event in events]


def test_a_replica_leaves_once_and_returns_once() -> None:
    health = Health(100)
    assert not health.note([reported("a"), reported("b")], 1.0)
    (event,) = health.note([reported("b")], 2.5)
    assert (event.replica, event.kind, event.time) == ("a", Kind.REPLICA_LEFT, 2_500_000)
    assert not health.note([reported("b")], 3.0)
    assert seen(health.note([reported("a"), reported("b")], 4.0)) == [("a", Kind.REPLICA_RETURNED)]
    assert not health.note([reported("a"), reported("b")], 5.0)


def test_lag_and_disagreement_are_told_at_once_and_once() -> None:
    health = Health(100)
    assert seen(health.note([reported("a", lag=101), reported("b", agrees=False)], 1.0)) == [
        ("a", Kind.REPLICA_LAGGING),
        ("b", Kind.REPLICA_DISAGREES),
    ]
    assert not health.note([reported("a", lag=500), reported("b", agrees=False)], 2.0)
    assert seen(health.note([reported("a", lag=100), reported("b", agrees=False)], 3.0)) == [
        ("a", Kind.REPLICA_RETURNED)
    ]
    assert seen(health.note([reported("a", agrees=False)], 4.0)) == [
        ("a", Kind.REPLICA_DISAGREES),
        ("b", Kind.REPLICA_LEFT),
    ]
