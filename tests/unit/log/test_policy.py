"""Entries about policy, folded and kept in snapshots."""

from __future__ import annotations

import json

import pytest

from errata.errors import ImpossibleEntryError
from errata.log.entries import Payload, ProbesSet
from errata.log.fold import LogFold
from errata.log.fold_json import fold_from_json, fold_to_json
from tests.unit.log.policies import LANE, folded


def test_a_probe_set_is_taken_and_replaced() -> None:
    fold = folded(LANE, ProbesSet(("Two plus two is",)), ProbesSet(()))
    assert fold.seq == 3


@pytest.mark.parametrize("payload", [ProbesSet(("  ",))])
def test_an_entry_that_cannot_be_is_refused(payload: Payload) -> None:
    with pytest.raises(ImpossibleEntryError):
        folded(LANE, payload)


def restored(fold: LogFold) -> LogFold:
    return fold_from_json(json.loads(json.dumps(fold_to_json(fold))))


def test_a_fold_without_policy_is_written_as_before() -> None:
    assert set(fold_to_json(folded(LANE))) == {
        *("seq", "lanes", "impossible", "voided", "trust", "snapshot", "edits")
    }


def test_a_fold_keeps_that_it_has_policy() -> None:
    fold = folded(LANE, ProbesSet(("Two plus two is",)))
    assert fold.has_policy
    assert fold.copy().has_policy
    assert restored(fold).has_policy
    assert not restored(folded(LANE)).has_policy, "control"
