"""Token buckets: a burst at once, then the rate; each key by itself."""

from __future__ import annotations

import pytest

from errata.errors import QueueFullError
from errata.gateway import rates
from errata.gateway.rates import TokenBuckets


class _Clock:
    """A clock that stands until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def _seconds(buckets: TokenBuckets, key: str, number: int) -> float | None:
    """When to come again; 0 if the tokens were there."""
    try:
        buckets.take(key, number)
    except QueueFullError as error:
        return error.retry_after_seconds
    return 0.0


def test_a_burst_passes_and_then_the_rate() -> None:
    clock = _Clock()
    buckets = TokenBuckets(2.0, 4, "edits", clock)
    assert [_seconds(buckets, "a", 2) for _ in range(3)] == [0.0, 0.0, 1.0]
    clock.now += 0.5
    assert _seconds(buckets, "a", 2) == 0.5
    clock.now += 0.5
    assert _seconds(buckets, "a", 2) == 0.0
    assert _seconds(buckets, "b", 4) == 0.0, "another caller"
    clock.now += 1_000
    assert [_seconds(buckets, "a", 4), _seconds(buckets, "a", 1)] == [0.0, 0.5]


def test_a_request_larger_than_the_burst_takes_a_full_bucket() -> None:
    buckets = TokenBuckets(1.0, 4, "edits", _Clock())
    assert [_seconds(buckets, "a", 100), _seconds(buckets, "a", 1)] == [0.0, 1.0]


def test_without_a_rate_nothing_is_limited() -> None:
    buckets = TokenBuckets(0.0, 1, "edits", _Clock())
    assert {_seconds(buckets, "a", 100) for _ in range(100)} == {0.0}


def test_many_callers_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_MAX_BUCKETS", 3)
    clock = _Clock()
    buckets = TokenBuckets(1.0, 2, "edits", clock)
    for key in "abcdefgh":
        assert _seconds(buckets, key, 2) == 0.0
        assert len(buckets) <= 3
    assert _seconds(buckets, "h", 1) == 1.0, "the newest is remembered"
    clock.now += 10
    assert _seconds(buckets, "i", 1) == 0.0
    assert len(buckets) == 1, "full buckets are forgotten"
