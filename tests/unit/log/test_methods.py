from __future__ import annotations

import pytest

from errata.editing.lane.contract import Lane
from errata.editing.lane.method import SliceMethod
from errata.editing.registry import methods
from errata.log.methods import METHODS


def test_the_log_knows_every_method() -> None:
    assert set(METHODS) == set(methods())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_log_knows_which_entries_the_lanes_of_a_method_take(name: str) -> None:
    method = methods()[name]
    assert METHODS[name].lane_models == method.capabilities.has_lane_models
    assert isinstance(method, SliceMethod)
    assert isinstance(method.opener, type)
    assert METHODS[name].namespaces != method.capabilities.changes_weights
    assert METHODS[name].compaction == (method.opener.compact is not Lane.compact)
