"""Proposed edits in the ledger: who waits, who is fitted, and in which order."""

from __future__ import annotations

from datetime import timedelta

import pytest

from errata.errors import PreconditionError
from errata.log.entries import EditsReviewed, Entry, LanePolicySet, Verdict
from errata.writer.ledger import EditLedger
from errata.writer.record import State
from tests.unit.writer.test_ledger import TIME, _commit, _edit, _entry, _request

POLICY = LanePolicySet("lanes/main", True)


def review(seq: int, *names: str, verdict: Verdict = Verdict.APPROVED) -> Entry:
    return _entry(seq, EditsReviewed(names, verdict, "why", "eve"))


async def proposed(*seqs: int) -> EditLedger:
    ledger = EditLedger()
    requests = [_request(seq, _edit(f"edits/{seq}-0")) for seq in seqs]
    await ledger.fold([_entry(1, POLICY), *requests])
    return ledger


async def test_an_edit_waits_until_it_is_approved() -> None:
    ledger = await proposed(2)
    record = ledger.get("edits/2-0")
    assert (record.state, record.state.waits, record.state.settled) == (State.PROPOSED, True, False)
    assert (ledger.num_pending, ledger.num_waiting, ledger.oldest_pending()) == (0, 1, None)
    await ledger.fold([review(3, "edits/2-0")])
    record = ledger.get("edits/2-0")
    assert (record.state, ledger.num_pending, ledger.num_waiting) == (State.REQUESTED, 1, 0)
    assert record.review is not None
    assert (record.review.seq, record.review.reviewer, record.review.comment) == (3, "eve", "why")
    await ledger.fold([_commit(4, "edits/2-0")])
    assert ledger.get("edits/2-0").state is State.COMMITTED


async def test_approved_edits_are_fitted_in_the_order_of_their_approvals() -> None:
    ledger = await proposed(2, 3, 4)
    await ledger.fold([review(5, "edits/4-0"), review(6, "edits/2-0", "edits/3-0")])
    batch = ledger.next_batch("lanes/main", 10, frozenset())
    assert [each.edit.name for each in batch] == ["edits/4-0", "edits/2-0", "edits/3-0"]


async def test_an_edit_waits_for_its_fit_from_its_approval_on() -> None:
    ledger = await proposed(2)
    await ledger.fold([review(3, "edits/2-0")])
    (record,) = ledger.next_batch("lanes/main", 10, frozenset())
    assert record.waits_since - record.request_time >= timedelta(0)
    assert ledger.oldest_pending() == record.queue_time == TIME


@pytest.mark.parametrize("verdict", [Verdict.REJECTED, Verdict.WITHDRAWN])
async def test_what_is_refused_is_settled(verdict: Verdict) -> None:
    ledger = await proposed(2)
    await ledger.fold([review(3, "edits/2-0", verdict=verdict)])
    record = ledger.get("edits/2-0")
    assert record.state.value == verdict.value
    assert record.state.settled
    assert (ledger.num_pending, ledger.num_waiting) == (0, 0)
    assert isinstance(record.error, PreconditionError) == (verdict is Verdict.REJECTED)


async def test_a_newer_edit_of_the_prompt_supersedes_unless_it_is_proposed_itself() -> None:
    ledger = EditLedger()
    same = [_edit(f"edits/{seq}-0", prompt="the same") for seq in (2, 3)]
    await ledger.fold([_entry(1, POLICY), _request(2, same[0]), _request(3, same[1])])
    older, newer = (ledger.get(edit.name) for edit in same)
    assert ledger.newer_than(older) == ""
    await ledger.fold([review(4, "edits/3-0")])
    assert ledger.newer_than(older) == "edits/3-0"
    assert ledger.newer_than(newer) == ""


async def test_a_fit_changes_no_edit_that_waits() -> None:
    ledger = await proposed(2)
    ledger.set_fitting(["edits/2-0"], True)
    assert ledger.get("edits/2-0").state is State.PROPOSED
