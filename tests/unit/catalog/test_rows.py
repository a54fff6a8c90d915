"""Rows say of every edit what the writer's ledger says, and events tell how it came to that."""

from __future__ import annotations

from datetime import timedelta

import pytest

from errata.catalog.database import name_of
from errata.catalog.finding import Order, Search, find
from errata.catalog.happenings import Kind
from errata.catalog.reading import EventFilter, events_after
from errata.errors import PreconditionError
from errata.log.entries import (
    EditsRejected,
    EditsReleased,
    EditsReverted,
    EditsReviewed,
    LanePolicySet,
    Rejection,
    Schedule,
    Verdict,
)
from errata.writer.convert import edit_message
from errata_client._gen.errata.v1 import editing_pb2
from tests.integration.log import entries
from tests.unit.catalog.memory import LANE, TIME, Log, edit


def same_as_the_ledger(log: Log) -> None:
    """Compares every edit's message with the one that the writer would answer."""
    found, more = find(log.database.connection, Search(), 1_000, "")
    rows = {}
    for each in found:
        message = editing_pb2.Edit.FromString(each.data)
        message.superseded_by = each.superseded_by
        rows[message.name] = message
    assert not more
    records = list(log.ledger.records())
    assert len(rows) == len(records)
    for record in records:
        superseded = log.ledger.superseded_by(record)
        method = log.fold.lanes[record.lane].method
        assert rows[record.edit.name] == edit_message(record, method, superseded)
    again = log.recorder.fold()
    assert again.standings() == log.fold.standings()
    assert (again.seq, again.timed, again.lanes) == (log.fold.seq, log.fold.timed, log.fold.lanes)
    assert again.reviewed_lanes == log.fold.reviewed_lanes
    assert again.canaries.open == log.fold.canaries.open
    assert again.canaries.ended == log.fold.canaries.ended


def kinds(log: Log) -> list[tuple[str, str]]:
    events = events_after(log.database.connection, 0, EventFilter())
    return [(event.edit_name, event.kind.value.removeprefix("edit.")) for event in events]


def test_an_edits_whole_life(log: Log) -> None:
    (first,) = log.request(edit("Where is Pisa? In"), source="T-7")
    same_as_the_ledger(log)
    log.add(entries.commit(first))
    same_as_the_ledger(log)
    log.add(entries.revert(first))
    same_as_the_ledger(log)
    log.add(entries.revert(first))  # earlier versions appended repeated reversals
    same_as_the_ledger(log)
    assert kinds(log) == [(first, "requested"), (first, "committed"), (first, "reverted")]
    events = events_after(log.database.connection, 0, EventFilter())
    assert [(event.seq, event.author, event.comment) for event in events] == [
        (2, "tom", ""),
        (3, "", ""),
        (4, "tom", "why"),
    ]


def test_a_rejection_has_its_reason(log: Log) -> None:
    first, second = log.request(edit("Pisa is"), edit("Pisa was"))
    log.add(entries.reject(second))
    same_as_the_ledger(log)
    assert kinds(log)[-1] == (second, "rejected")
    assert kinds(log)[0] == (first, "requested")
    (event,) = events_after(
        log.database.connection, 0, EventFilter(kinds=frozenset({Kind.REJECTED}))
    )
    assert event.comment == "reliability is 0.2"


def test_the_newest_commit_of_a_prompt_supersedes_until_it_is_reverted(log: Log) -> None:
    (first,) = log.request(edit("Pisa is in"))
    (second,) = log.request(edit("Pisa is in", "Rome"))
    log.add(entries.commit(second))
    log.add(entries.commit(first))  # the order of commits counts, not that of requests
    same_as_the_ledger(log)
    log.add(entries.revert(first))
    same_as_the_ledger(log)


def test_reviews_and_times(log: Log) -> None:
    log.add(LanePolicySet(LANE, True))
    later = Schedule(TIME + timedelta(days=1), TIME + timedelta(days=2))
    early, late, refused, gone = log.request(
        edit("Pisa a"),
        edit("Pisa b"),
        edit("Pisa c"),
        edit("Pisa d"),
        schedules=(Schedule(), later, Schedule(), Schedule()),
    )
    same_as_the_ledger(log)
    log.add(EditsReviewed((early, late), Verdict.APPROVED, "fine", "eve"))
    log.add(EditsReviewed((refused,), Verdict.REJECTED, "wrong source", "eve"))
    log.add(EditsReviewed((gone,), Verdict.WITHDRAWN, "", "tom"))
    same_as_the_ledger(log)
    log.add(EditsReleased((late,)))
    log.add(entries.commit(late))
    log.add(EditsReverted((late,), "expired"), "the writer", TIME + timedelta(days=2))
    same_as_the_ledger(log)
    assert kinds(log)[4:] == [
        (early, "approved"),
        (late, "approved"),
        (refused, "rejected"),
        (gone, "withdrawn"),
        (late, "released"),
        (late, "committed"),
        (late, "expired"),
    ]


@pytest.mark.parametrize(("days", "expected"), [(3, "expired"), (1, "rejected")])
def test_a_rejection_after_the_end_is_an_expiry(log: Log, days: int, expected: str) -> None:
    schedule = Schedule(TIME + timedelta(days=1), TIME + timedelta(days=2))
    (name,) = log.request(edit("Pisa is in"), schedules=(schedule,))
    late = Rejection(name, PreconditionError("it expired"), None)
    log.add(EditsRejected(LANE, (late,)), time=TIME + timedelta(days=days))
    assert kinds(log)[-1] == (name, expected)


def test_a_person_who_says_expired_reverts(log: Log) -> None:
    (name,) = log.request(edit("Pisa is in"))
    log.add(entries.commit(name))
    log.add(EditsReverted((name,), "expired"))
    assert kinds(log)[-1] == (name, "reverted")


def test_comments_of_reviews_and_reversals_are_found(log: Log) -> None:
    log.add(LanePolicySet(LANE, True))
    (name,) = log.request(edit("Pisa is in"))
    log.add(EditsReviewed((name,), Verdict.APPROVED, "checked by the archivist", "eve"))
    log.add(entries.commit(name))
    log.add(EditsReverted((name,), "the tower moved"))
    for text in ("archivist", "tower moved", "pisa archivist"):
        found, _ = find(log.database.connection, Search(text=text, order=Order.RELEVANCE), 9, "")
        assert [editing_pb2.Edit.FromString(each.data).name for each in found] == [name]
    assert found[0].revert_comment == "the tower moved"


def test_ids_are_names() -> None:
    assert name_of("edits", (12 << 20) | 7) == "edits/12-7"
