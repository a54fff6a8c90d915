"""Canaries in the ledger: where their edits lie, who answers, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from errata.editing.edit import Edit
from errata.editing.namespaces import place_of
from errata.errors import ImpossibleEntryError
from errata.log.canary_entries import (
    CanaryComparison,
    CanaryCounts,
    CanaryEnded,
    CanaryRule,
    CanarySet,
    Outcome,
)
from errata.log.entries import EditsReverted, Entry, LaneConfigured, LanePolicySet
from errata.writer.canary_book import CanaryRecord, decision_digest
from errata.writer.conflicts import Kind
from errata.writer.ledger import EditLedger
from errata.writer.ledger_pages import ledger_pages, read_ledger
from errata.writer.record import State
from tests.unit.writer.test_ledger import TIME, _commit, _entry, _request
from tests.unit.writer.test_reviewed_ledger import review

TRIAL, RIVAL = "canaries/trial", "canaries/rival"
LANE = "lanes/main"
PROMPT = "The capital of France is"
RULE = CanaryRule(10, 0.1, 60)


def edit(seq: int, canary: str = "", prompt: str = PROMPT, namespace: str = "acme") -> Edit:
    place = place_of(namespace, canary)
    name = f"edits/{seq}-0"
    return Edit(name, prompt, f"target {seq}", "France", namespace=place, canary=canary)


def opened(seq: int, name: str = TRIAL, share_ppm: int = 1, readers: tuple[str, ...] = ()) -> Entry:
    return _entry(seq, CanarySet(name, LANE, "acme", share_ppm, readers, RULE, f"entry {seq}"))


def ended(
    seq: int,
    outcome: Outcome,
    *names: str,
    canary: str = TRIAL,
    counted: CanaryComparison | None = None,
) -> Entry:
    return _entry(seq, CanaryEnded(canary, outcome, names, "enough", counted))


async def ledger_of(*entries: Entry) -> EditLedger:
    """A ledger with a lane at entry 1."""
    ledger = EditLedger()
    await ledger.fold([_entry(1, LaneConfigured(LANE, "recipe", "{}", "c", "m")), *entries])
    return ledger


def found(ledger: EditLedger, name: str = TRIAL) -> CanaryRecord:
    record = ledger.canaries.get(name)
    assert record is not None
    return record


async def test_a_canary_is_opened_changed_and_ended() -> None:
    ledger = await ledger_of(opened(2))
    first = found(ledger)
    assert (first.opened_seq, first.set_seq, first.is_open, first.author) == (2, 2, True, "me")
    assert ledger.canaries.has_open
    later = opened(3, share_ppm=5, readers=("staff",))
    await ledger.fold([Entry(3, "id-3", TIME + timedelta(hours=1), "ann", later.payload)])
    changed = found(ledger)
    assert (changed.opened_seq, changed.open_time, changed.author) == (2, TIME, "me")
    assert (changed.set_seq, changed.set_by, changed.share_ppm) == (3, "ann", 5)
    assert (changed.readers, changed.comment) == (("staff",), "entry 3")
    counted = CanaryComparison(2, CanaryCounts(7), CanaryCounts(90))
    await ledger.fold([ended(4, Outcome.PROMOTED, counted=counted)])
    over = found(ledger)
    assert (over.outcome, over.ended_seq, over.ended_by) == (Outcome.PROMOTED, 4, "me")
    assert (over.comparison, over.comment, over.end_time) == (counted, "enough", TIME)
    assert not ledger.canaries.has_open
    assert ledger.canaries.open_ones() == []


async def test_a_roll_back_that_has_begun_is_kept_with_who_began_it() -> None:
    stopped = CanarySet(TRIAL, LANE, "acme", 0, comment="too slow", rolls_back=True)
    ledger = await ledger_of(opened(2), Entry(3, "id-3", TIME, "eve", stopped))
    again = EditLedger()
    await again.restore(read_ledger([*ledger_pages(ledger.capture())]))
    for each in (ledger, again):
        begun = found(each)
        assert (begun.rolling_back, begun.set_by, begun.comment) == (True, "eve", "too slow")
        asked = CanaryEnded(TRIAL, Outcome.ROLLED_BACK, (), "too slow")
        assert each.decision_at(3) == decision_digest(asked, "eve"), "the request's retry finds it"
    assert not found(await ledger_of(opened(2))).rolling_back


async def test_a_new_rule_leaves_the_time_of_the_audience() -> None:
    ledger = await ledger_of(opened(2))
    hour = TIME + timedelta(hours=1)
    same = CanarySet(TRIAL, LANE, "acme", 1, (), None)
    await ledger.fold([Entry(3, "id-3", hour, "ann", same)])
    assert (found(ledger).audience_time, found(ledger).set_time) == (TIME, hour)
    wider = CanarySet(TRIAL, LANE, "acme", 2, (), None)
    await ledger.fold([Entry(4, "id-4", hour, "ann", wider)])
    assert found(ledger).audience_time == hour


async def test_a_canary_that_was_rolled_back_shows_its_last_audience() -> None:
    """A roll-back begins with an entry from which on nobody is in it."""
    first = opened(2, share_ppm=5, readers=("staff",))
    ledger = await ledger_of(first, _entry(3, CanarySet(TRIAL, LANE, "acme", 0, comment="worse")))
    stopped = found(ledger)
    assert (stopped.share_ppm, stopped.has_audience, stopped.rule) == (0, False, None)
    (restored,) = read_ledger([*ledger_pages(ledger.capture())]).canaries
    assert restored == stopped
    await ledger.fold([ended(4, Outcome.ROLLED_BACK)])
    over = found(ledger)
    assert (over.share_ppm, over.readers, over.rule) == (5, ("staff",), RULE)


async def test_a_promoted_canary_shows_the_audience_of_its_end() -> None:
    nobody = CanarySet(TRIAL, LANE, "acme", 0)
    ledger = await ledger_of(opened(2, share_ppm=5), _entry(3, nobody))
    await ledger.fold([ended(4, Outcome.PROMOTED)])
    assert found(ledger).share_ppm == 0
    ledger = await ledger_of(opened(2), _entry(3, nobody), opened(4, share_ppm=7))
    await ledger.fold([ended(5, Outcome.ROLLED_BACK)])
    assert found(ledger).share_ppm == 7


async def test_a_comment_stays_until_there_is_another() -> None:
    ledger = await ledger_of(opened(2), _entry(3, CanarySet(TRIAL, LANE, "acme", 5)))
    assert found(ledger).comment == "entry 2"
    await ledger.fold([_entry(4, CanaryEnded(TRIAL, Outcome.PROMOTED, (), ""))])
    assert found(ledger).comment == "entry 2"


async def test_a_trial_supersedes_the_namespace_from_its_promotion_on() -> None:
    ledger = await ledger_of(
        _request(2, edit(2)),
        opened(3),
        _request(4, edit(4, TRIAL)),
        _commit(5, "edits/2-0"),
        _commit(6, "edits/4-0"),
    )
    old, new = ledger.get("edits/2-0"), ledger.get("edits/4-0")
    assert (ledger.superseded_by(old), ledger.superseded_by(new)) == ("", "")
    assert (new.edit.namespace, new.namespace) == ("acme~trial", "acme")
    await ledger.fold([ended(7, Outcome.PROMOTED, "edits/4-0")])
    old, new = ledger.get("edits/2-0"), ledger.get("edits/4-0")
    assert (ledger.superseded_by(old), ledger.superseded_by(new)) == ("edits/4-0", "")
    assert (new.edit.namespace, new.edit.canary) == ("acme", TRIAL)
    await ledger.fold([_entry(8, EditsReverted(("edits/4-0",), ""))])
    assert ledger.superseded_by(ledger.get("edits/2-0")) == ""


async def test_the_newest_commit_of_a_prompt_answers_also_after_a_promotion() -> None:
    ledger = await ledger_of(
        opened(2),
        _request(3, edit(3, TRIAL)),
        _request(4, edit(4)),
        _commit(5, "edits/3-0"),
        _commit(6, "edits/4-0"),
    )
    assert ledger.superseded_by(ledger.get("edits/3-0")) == "edits/4-0", "who is in it reads both"
    await ledger.fold([ended(7, Outcome.PROMOTED, "edits/3-0")])
    assert ledger.superseded_by(ledger.get("edits/3-0")) == "edits/4-0"
    assert ledger.superseded_by(ledger.get("edits/4-0")) == ""


async def test_a_roll_back_reverts() -> None:
    ledger = await ledger_of(
        _request(2, edit(2)),
        opened(3),
        _request(4, edit(4, TRIAL)),
        _request(5, edit(5, TRIAL, "another prompt")),
        _commit(6, "edits/2-0", "edits/4-0", "edits/5-0"),
        _entry(7, EditsReverted(("edits/5-0",), "")),
        ended(8, Outcome.ROLLED_BACK, "edits/4-0"),
    )
    rolled_back, earlier = ledger.get("edits/4-0"), ledger.get("edits/5-0")
    assert (rolled_back.state, rolled_back.revert_seq) == (State.REVERTED, 8)
    assert (earlier.state, earlier.revert_seq) == (State.REVERTED, 7)
    assert [each.name for each in ledger.active_edits(LANE)] == ["edits/2-0"]
    assert list(ledger.canaries.edits_of(TRIAL)) == ["edits/4-0", "edits/5-0"]


async def test_what_waits_goes_on_in_the_namespace() -> None:
    ledger = await ledger_of(
        _entry(2, LanePolicySet(LANE, True)),
        opened(3),
        _request(4, edit(4, TRIAL)),
        ended(5, Outcome.PROMOTED),
        review(6, "edits/4-0"),
    )
    (record,) = ledger.next_batch(LANE, 10, frozenset())
    assert (record.edit.name, record.edit.namespace) == ("edits/4-0", "acme")


async def test_an_unknown_canary_is_an_impossible_entry() -> None:
    with pytest.raises(ImpossibleEntryError, match="canaries/trial"):
        await ledger_of(ended(2, Outcome.PROMOTED))


async def test_conflicts_cross_between_a_namespace_and_its_canaries_but_not_between_rivals() -> (
    None
):
    ledger = await ledger_of(
        opened(2),
        opened(3, RIVAL),
        _request(4, edit(4)),
        _request(5, edit(5, TRIAL)),
        _request(6, edit(6, RIVAL)),
        _request(7, edit(7, namespace="other")),
    )

    def conflicts(canary: str) -> list[tuple[Kind, str]]:
        new = Edit("", PROMPT, "new", "France", namespace=place_of("acme", canary), canary=canary)
        return [(each.kind, each.name) for each in ledger.conflicts_of([new], LANE)]

    kind = Kind.SUPERSEDES
    assert conflicts("") == [(kind, "edits/6-0"), (kind, "edits/5-0"), (kind, "edits/4-0")]
    assert conflicts(TRIAL) == [(kind, "edits/5-0"), (kind, "edits/4-0")]
    assert conflicts(RIVAL) == [(kind, "edits/6-0"), (kind, "edits/4-0")]
    assert ledger.newer_than(ledger.get("edits/4-0")) == "edits/6-0"
    assert ledger.newer_than(ledger.get("edits/5-0")) == ""


async def test_dependents_are_sought_where_the_reverted_edit_is_read() -> None:
    ledger = await ledger_of(
        opened(2),
        opened(3, RIVAL),
        _request(4, edit(4, prompt="a")),
        _request(5, edit(5, TRIAL, "b")),
        _request(6, edit(6, TRIAL, "c")),
        _request(7, edit(7, RIVAL, "d")),
        _request(8, edit(8, prompt="e")),
        *(_commit(seq + 5, f"edits/{seq}-0") for seq in (4, 5, 6, 7, 8)),
    )

    def dependents(name: str) -> list[str]:
        return [each.name for each in ledger.dependents_of([name])]

    assert dependents("edits/4-0") == ["edits/5-0", "edits/6-0", "edits/7-0", "edits/8-0"]
    assert dependents("edits/5-0") == ["edits/6-0"], "nobody else reads the trial"


async def test_a_trial_is_fitted_by_itself_and_behind_earlier_edits_of_its_prompt() -> None:
    ledger = await ledger_of(
        opened(2),
        _request(3, replace(edit(3, prompt="a"), subject="Spain")),
        _request(4, edit(4, TRIAL)),
        _request(5, edit(5)),
    )

    def batch() -> list[str]:
        return [each.edit.name for each in ledger.next_batch(LANE, 10, frozenset())]

    assert batch() == ["edits/3-0"], "the last one comes behind the trial"
    await ledger.fold([_commit(6, "edits/3-0")])
    assert batch() == ["edits/4-0"]
    await ledger.fold([_commit(7, "edits/4-0")])
    assert batch() == ["edits/5-0"]


@pytest.mark.parametrize("outcome", [None, *Outcome])
async def test_a_ledger_from_a_snapshot_has_the_canaries(outcome: Outcome | None) -> None:
    entries = [
        _request(2, edit(2)),
        opened(3, readers=("", "staff")),
        opened(4, RIVAL),
        _request(5, edit(5, TRIAL)),
        _commit(6, "edits/2-0"),
        _commit(7, "edits/5-0"),
    ]
    counted = CanaryComparison(3, CanaryCounts(7, 6, 5, 4, 3, 2), CanaryCounts(90))
    if outcome is not None:
        entries.append(ended(8, outcome, "edits/5-0", counted=counted))
    ledger = await ledger_of(*entries)
    again = EditLedger()
    await again.restore(read_ledger([*ledger_pages(ledger.capture())]))
    assert again.capture() == ledger.capture()
    assert list(again.canaries) == list(ledger.canaries)
    assert again.canaries.open_ones() == ledger.canaries.open_ones()
    assert list(again.canaries.edits_of(TRIAL)) == ["edits/5-0"]
    for name in ("edits/2-0", "edits/5-0"):
        assert again.superseded_by(again.get(name)) == ledger.superseded_by(ledger.get(name))
    if outcome is None:
        await again.fold([ended(8, Outcome.PROMOTED, "edits/5-0")])
        assert again.superseded_by(again.get("edits/2-0")) == "edits/5-0"


async def test_pages_without_canaries_are_those_of_earlier_versions() -> None:
    ledger = await ledger_of(_request(2, edit(2)), _commit(3, "edits/2-0"))
    pages = b"".join(ledger_pages(ledger.capture()))
    assert b"canar" not in pages
    assert b"acme" in pages
