"""Recent states stay available by position; older ones are refused with the first kept position."""

from __future__ import annotations

import pytest

from errata.errors import SeqTrimmedError
from errata.retrieval.history import RoutingHistory, RoutingSnapshot


def _at(seq: int) -> RoutingSnapshot:
    return RoutingSnapshot(seq, bytes(32), "", None, {})


def test_the_state_at_a_position_is_that_of_the_last_change_before_it() -> None:
    history = RoutingHistory("retrieval", 3)
    for seq in (2, 5):
        history.append(_at(seq))
    assert [history.as_of(seq).seq for seq in (0, 1, 2, 4, 5, 9)] == [0, 0, 2, 2, 5, 5]
    assert (history.latest.seq, history.floor_seq) == (5, 0)


def test_a_position_before_the_oldest_state_is_refused() -> None:
    history = RoutingHistory("retrieval", 2)
    for seq in (2, 5):
        history.append(_at(seq))
    with pytest.raises(SeqTrimmedError, match="request a later position") as caught:
        history.as_of(1)
    assert caught.value.metadata["floor_seq"] == "2"


def test_a_restart_drops_earlier_states() -> None:
    history = RoutingHistory("retrieval", 3)
    history.restart(_at(7))
    assert (history.latest.seq, history.floor_seq) == (7, 7)
