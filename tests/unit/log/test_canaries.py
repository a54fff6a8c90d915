"""Entries about canaries: their bytes, what every reader folds, and what snapshots keep."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from errata.errors import ImpossibleEntryError
from errata.log.canaries import MAX_OPEN
from errata.log.canary_entries import (
    CanaryComparison,
    CanaryCounts,
    CanaryEnded,
    CanaryRule,
    CanarySet,
    Outcome,
)
from errata.log.chain import ChainedEntry, Position
from errata.log.convert import report_from, report_to
from errata.log.entries import EditsReverted, Entry, LaneConfigured, Payload
from errata.log.fold import LogFold
from errata.log.fold_json import fold_from_json, fold_to_json
from errata.log.payload_convert import decode, encode
from errata.log.positions import ReplicaReport
from errata.log.standing import Standing
from errata.replica.fold_pages import fold_pages, read_fold
from tests.unit.log.policies import LANE, MODEL, REVIEWED, TIME, committed, folded, rejected
from tests.unit.log.policies import requested as plain

ADAPLE = LaneConfigured("lanes/adaple", "adaple", "{}", hashlib.sha256(b"{}").hexdigest(), MODEL)
SPRING = CanarySet("canaries/spring", "lanes/main", "", 100_000)
STOPPED = replace(SPRING, share_ppm=0, rolls_back=True)
COUNTS = CanaryComparison(2, CanaryCounts(10, 2, 3, 1, 99, 12_345), CanaryCounts(90, shaped=4))


def requested(seq: int, canary: str = "canaries/spring", namespace: str = "~spring") -> Any:
    payload = plain(seq)
    (edit,) = payload.edits
    return replace(payload, edits=(replace(edit, namespace=namespace, canary=canary),))


def ended(*edits: str, outcome: Outcome = Outcome.PROMOTED) -> CanaryEnded:
    return CanaryEnded("canaries/spring", outcome, edits, "why")


@pytest.mark.parametrize(
    "payload",
    [
        SPRING,
        replace(SPRING, readers=("", "acme"), namespace="team", comment="a trial"),
        replace(SPRING, rule=CanaryRule(100, 0.25, 3_600)),
        replace(SPRING, share_ppm=0, rolls_back=True),
        ended("edits/3-0", "edits/4-1"),
        replace(ended(outcome=Outcome.ROLLED_BACK), comparison=COUNTS),
        requested(3),
        requested(3, "canaries/spring", "team~spring"),
    ],
)
def test_an_entry_is_read_as_it_was_written(payload: Payload) -> None:
    data = encode(payload, "somebody").SerializeToString()
    assert decode(ChainedEntry(3, data, b"")).payload == payload


def test_edits_of_a_canary_are_of_a_kind_that_older_versions_do_not_know() -> None:
    message = encode(requested(3, namespace="team~spring"), "somebody")
    assert message.WhichOneof("kind") == "edits_canaried"
    (spec,) = message.edits_canaried.edits
    assert (spec.namespace, spec.canary) == ("team", "canaries/spring")
    older = encode(plain(3), "somebody")
    older.edits_requested.edits[0].canary = "canaries/spring"
    found = decode(ChainedEntry(3, older.SerializeToString(), b"")).payload
    assert found == plain(3), "in older kinds it counts for nothing, as for older readers"


@pytest.mark.parametrize(
    ("payload", "match"),
    [
        (replace(SPRING, canary="canaries/Spring"), "name"),
        (replace(SPRING, canary="spring"), "name"),
        (replace(SPRING, lane="lanes/none"), "no lane"),
        (replace(SPRING, lane="lanes/adaple"), "cannot have a canary"),
        (replace(SPRING, namespace="a b"), "namespace"),
        (replace(SPRING, namespace="team~x"), "namespace"),
        (replace(SPRING, share_ppm=1_000_001), "share"),
        (replace(SPRING, share_ppm=-1), "share"),
        (replace(SPRING, readers=("b", "a")), "sorted"),
        (replace(SPRING, readers=("A",)), "namespace"),
        (replace(SPRING, readers=("", "b")), "own namespace default; give share 1 instead"),
        (replace(SPRING, readers=("team",), namespace="team"), "own namespace team"),
        (replace(SPRING, readers=tuple(f"n{n:02}" for n in range(17))), "limit"),
        (replace(SPRING, rule=CanaryRule(0, 0.1)), "min_requests"),
        (replace(SPRING, rule=CanaryRule(1, float("nan"))), "max_error_increase"),
        (replace(SPRING, rule=CanaryRule(1, 1.1)), "max_error_increase"),
        (replace(SPRING, rule=CanaryRule(1, 0.1, -1)), "promote_after"),
        (ended(), "not open"),
        (requested(3), "not open"),
        (STOPPED, "not open, so it cannot be rolled back"),
        (replace(STOPPED, share_ppm=1), "no audience and no rule"),
        (replace(STOPPED, readers=("acme",)), "no audience and no rule"),
        (replace(STOPPED, rule=CanaryRule(1, 0.1)), "no audience and no rule"),
    ],
)
def test_a_canary_that_cannot_be_is_refused(payload: Payload, match: str) -> None:
    with pytest.raises(ImpossibleEntryError, match=match):
        folded(LANE, ADAPLE, payload)


@pytest.mark.parametrize(
    ("payload", "match"),
    [
        (replace(SPRING, namespace="team"), "cannot change; open another canary"),
        (requested(3, namespace="team~spring"), "of the namespace default"),
        (requested(3, "canaries/other", "~other"), "not open"),
        (requested(3, "", "~spring"), "not open"),
        (ended("edits/3-0"), "0 that are in force"),
    ],
)
def test_what_an_open_canary_does_not_allow(payload: Payload, match: str) -> None:
    with pytest.raises(ImpossibleEntryError, match=match):
        folded(LANE, SPRING, payload)


def test_a_canary_stays_in_its_lane_and_has_a_limit() -> None:
    other = replace(LANE, lane="lanes/other")
    with pytest.raises(ImpossibleEntryError, match="cannot change"):
        folded(LANE, other, SPRING, replace(SPRING, lane="lanes/other"))
    with pytest.raises(ImpossibleEntryError, match=r"is of lanes/main"):
        folded(LANE, other, SPRING, replace(requested(4), lane="lanes/other"))
    many = [replace(SPRING, canary=f"canaries/c{n}") for n in range(MAX_OPEN)]
    folded(LANE, *many, many[0])
    with pytest.raises(ImpossibleEntryError, match="which is the limit"):
        folded(LANE, *many, SPRING)


def _history() -> LogFold:
    """A committed, a rejected and a pending edit of an open canary; its audience has grown."""
    return folded(
        LANE,
        SPRING,
        requested(3),
        committed("edits/3-0"),
        requested(5),
        rejected("edits/5-0"),
        requested(7),
        replace(SPRING, share_ppm=500_000, readers=("acme",)),
    )


def _add(fold: LogFold, payload: Payload) -> None:
    fold.add(Entry(fold.seq + 1, f"id {fold.seq}", TIME, "somebody", payload))


def test_a_changed_audience_keeps_where_the_canary_was_opened() -> None:
    known = _history().canaries.open["canaries/spring"]
    assert (known.opened_seq, known.share_ppm, known.readers) == (2, 500_000, ("acme",))


def test_a_promotion_moves_all_edits_of_the_canary() -> None:
    fold = _history()
    _add(fold, ended("edits/3-0"))
    standings = fold.standings()
    assert standings["edits/3-0"] == ("lanes/main", Standing.COMMITTED, "")
    assert standings["edits/7-0"] == ("lanes/main", Standing.REQUESTED, ""), "it goes on"
    assert (dict(fold.canaries.open), fold.canaries.ended) == ({}, {"canaries/spring"})
    _add(fold, committed("edits/7-0"))
    assert fold.active("lanes/main") == ["edits/3-0", "edits/7-0"]


def test_a_roll_back_reverts_what_is_committed_and_needs_the_rest_rejected() -> None:
    fold = _history()
    rolled = ended("edits/3-0", outcome=Outcome.ROLLED_BACK)
    with pytest.raises(ImpossibleEntryError, match="edits/7-0 is not committed yet"):
        _add(fold, rolled)
    _add(fold, rejected("edits/7-0"))
    _add(fold, rolled)
    assert fold.active("lanes/main") == []
    assert fold.standings()["edits/3-0"].standing is Standing.REVERTED
    for payload in (SPRING, rolled, requested(11)):
        with pytest.raises(ImpossibleEntryError, match="has ended"):
            _add(fold, payload)


def test_nothing_but_its_end_follows_the_beginning_of_a_roll_back() -> None:
    fold = _history()
    _add(fold, STOPPED)
    for payload in (SPRING, requested(10), ended("edits/3-0"), replace(SPRING, share_ppm=0)):
        with pytest.raises(ImpossibleEntryError, match="canaries/spring is being rolled back"):
            _add(fold, payload)
    _add(fold, replace(STOPPED, comment="again"))
    _add(fold, committed("edits/7-0"))  # it was being fitted
    _add(fold, ended("edits/3-0", "edits/7-0", outcome=Outcome.ROLLED_BACK))
    assert fold.active("lanes/main") == []


def test_a_reverted_edit_of_a_canary_is_not_promoted() -> None:
    fold = _history()
    _add(fold, EditsReverted(("edits/3-0",), "no"))
    with pytest.raises(ImpossibleEntryError, match="0 that are in force"):
        _add(fold, ended("edits/3-0"))
    _add(fold, ended())
    assert fold.active("lanes/main") == []


def test_an_edit_that_waits_for_approval_goes_on_after_a_promotion() -> None:
    fold = folded(LANE, REVIEWED, SPRING, requested(4))
    _add(fold, ended())
    assert fold.standings()["edits/4-0"] == ("lanes/main", Standing.PROPOSED, "")


def test_snapshots_and_archives_keep_canaries() -> None:
    fold = _history()
    _add(fold, replace(SPRING, canary="canaries/other", namespace="team"))
    _add(fold, replace(ended(), canary="canaries/other"))
    _add(fold, STOPPED)
    assert fold.canaries.open["canaries/spring"].rolling_back
    for again in (
        fold_from_json(json.loads(json.dumps(fold_to_json(fold)))),
        read_fold(list(fold_pages(fold, {"edits/3-0": 4})))[0],
        fold.copy(),
    ):
        assert again.canaries.open == fold.canaries.open
        assert again.canaries.ended == {"canaries/other"}
        assert again.standings() == fold.standings()
    assert "canaries" not in fold_to_json(folded(LANE, plain(2))), "as before where there is none"


def test_counts_travel_with_a_replicas_position() -> None:
    report = ReplicaReport(
        "worker-1", Position(3, bytes(32)), "ab", "worker", canaries={"canaries/spring": COUNTS}
    )
    assert report_from(report_to(report)) == report
    both = COUNTS + COUNTS
    assert (both.opened_seq, both.canary.requests, both.rest.shaped) == (2, 20, 8)
    assert both.canary.error_share == 0.1
    assert CanaryCounts().error_share == 0.0
