"""Entries about policy, folded and kept in snapshots."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from errata.errors import ImpossibleEntryError
from errata.log.entries import (
    EditsReleased,
    EditsReviewed,
    Entry,
    LaneConfigured,
    LanePolicySet,
    Payload,
    ProbesSet,
    Schedule,
    Verdict,
)
from errata.log.fold import LogFold
from errata.log.fold_json import fold_from_json, fold_to_json
from errata.log.payload_convert import encode
from errata.log.standing import Standing
from tests.unit.log.policies import LANE, REVIEWED, TIME, committed, folded, rejected, requested


def test_a_probe_set_is_taken_and_replaced() -> None:
    fold = folded(LANE, ProbesSet(("Two plus two is",)), ProbesSet(()))
    assert fold.seq == 3


def review(*names: str, verdict: Verdict = Verdict.APPROVED, by: str = "eve") -> EditsReviewed:
    return EditsReviewed(names, verdict, "why", by)


@pytest.mark.parametrize(
    "payload",
    [
        ProbesSet(("  ",)),
        LanePolicySet("lanes/none", True),
        review("edits/9-0"),
        review(),
        review("edits/3-0", "edits/3-0"),
        review("edits/3-0", by=" "),
        rejected("edits/9-0"),
        committed("edits/3-0"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(payload: Payload) -> None:
    with pytest.raises(ImpossibleEntryError):
        folded(LANE, REVIEWED, requested(3), payload)


@pytest.mark.parametrize(
    ("verdict", "standing"),
    [
        (Verdict.APPROVED, Standing.REQUESTED),
        (Verdict.REJECTED, Standing.REJECTED),
        (Verdict.WITHDRAWN, Standing.WITHDRAWN),
    ],
)
def test_an_edit_waits_for_one_decision(verdict: Verdict, standing: Standing) -> None:
    before = folded(LANE, REVIEWED, requested(3))
    assert before.standings()["edits/3-0"][:2] == ("lanes/main", Standing.PROPOSED)
    decided = (LANE, REVIEWED, requested(3), review("edits/3-0", verdict=verdict))
    assert folded(*decided).standings()["edits/3-0"][:2] == ("lanes/main", standing)
    with pytest.raises(ImpossibleEntryError):
        folded(*decided, review("edits/3-0"))


def test_only_an_approved_edit_can_be_committed() -> None:
    fold = folded(LANE, REVIEWED, requested(3), review("edits/3-0"), committed("edits/3-0"))
    assert fold.active("lanes/main") == ["edits/3-0"]


def test_a_lane_can_stop_requiring_approval() -> None:
    fold = folded(LANE, REVIEWED, requested(3), LanePolicySet("lanes/main", False), requested(5))
    standings = {name: str(at) for name, (_, at, _) in fold.standings().items()}
    assert standings == {"edits/3-0": "proposed", "edits/5-0": "requested"}


def test_a_fold_keeps_what_waits_and_older_versions_cannot_read_it() -> None:
    fold = folded(LANE, REVIEWED, requested(3))
    again = restored(fold)
    assert (again.reviewed_lanes, again.standings()) == ({"lanes/main"}, fold.standings())
    with pytest.raises(TypeError, match="requires_approval"):  # as versions before read a lane
        LaneConfigured(**fold_to_json(fold)["lanes"][0])


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


SOON = Schedule(TIME + timedelta(days=1), TIME + timedelta(days=2))


def test_a_scheduled_edit_waits_for_its_release() -> None:
    entries = (LANE, requested(2, SOON))
    assert folded(*entries).standings()["edits/2-0"][1] is Standing.SCHEDULED
    with pytest.raises(ImpossibleEntryError):
        folded(*entries, committed("edits/2-0"))
    released = (*entries, EditsReleased(("edits/2-0",)))
    assert folded(*released, committed("edits/2-0")).active("lanes/main") == ["edits/2-0"]
    with pytest.raises(ImpossibleEntryError):
        folded(*released, EditsReleased(("edits/2-0",)))


def test_a_proposed_edit_waits_for_its_approval_and_then_for_its_release() -> None:
    entries = (LANE, REVIEWED, requested(3, SOON))
    before = folded(*entries)
    assert before.standings()["edits/3-0"][1] is Standing.PROPOSED
    with pytest.raises(ImpossibleEntryError):
        folded(*entries, EditsReleased(("edits/3-0",)))
    for fold in (before, restored(before), before.copy()):
        fold.add(Entry(4, "", TIME, "eve", review("edits/3-0")))
        assert fold.standings()["edits/3-0"][1] is Standing.SCHEDULED
        assert not fold.timed


def test_an_end_alone_delays_nothing() -> None:
    fold = folded(LANE, requested(2, Schedule(None, TIME)))
    assert fold.standings()["edits/2-0"][1] is Standing.REQUESTED
    assert fold.has_policy, "older versions must not start from a snapshot of it"


@pytest.mark.parametrize("standing", [(), (REVIEWED,)])
def test_what_waits_can_be_rejected_when_it_expires(standing: tuple[Payload, ...]) -> None:
    seq = 2 + len(standing)
    fold = folded(LANE, *standing, requested(seq, SOON), rejected(f"edits/{seq}-0"))
    assert fold.standings()[f"edits/{seq}-0"][1] is Standing.REJECTED


def test_times_that_cannot_be_are_refused() -> None:
    for schedules in ((Schedule(TIME, TIME),), (SOON, SOON)):
        with pytest.raises(ImpossibleEntryError):
            folded(LANE, requested(2, *schedules))


def test_versions_that_know_no_times_stop_at_a_request_with_one() -> None:
    known, timed = (encode(requested(2, *each), "") for each in ((), (SOON,)))
    assert known.WhichOneof("kind") == "edits_requested"
    assert timed.WhichOneof("kind") == "edits_scheduled"
