"""Times are taken once, in order, and not before they have come."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from errata.log.entries import Schedule
from errata.writer.agenda import Agenda
from errata.writer.record import EditRecord
from tests.unit.writer.test_ledger import _edit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def record(name: str, begin: int | None, end: int | None) -> EditRecord:
    times = Schedule(*(None if each is None else NOW + each * HOUR for each in (begin, end)))
    plain = EditRecord(_edit(name), "", "lanes/main", "", NOW)
    return replace(plain, times=times)


def test_what_is_due_is_taken_once_in_log_order() -> None:
    agenda = Agenda()
    for each in (
        record("edits/10-0", 1, 3),
        record("edits/9-0", 2, None),
        record("edits/8-0", 4, 5),
    ):
        agenda.note(each)
    assert not agenda.has_due(NOW)
    assert agenda.has_due(NOW + HOUR), "a time that comes now has come"
    assert agenda.take_due(NOW + 3 * HOUR) == (["edits/9-0", "edits/10-0"], ["edits/10-0"])
    assert agenda.take_due(NOW + 3 * HOUR) == ([], [])
    assert agenda.take_due(NOW + 9 * HOUR) == (["edits/8-0"], ["edits/8-0"])


def test_an_edit_without_times_is_never_due() -> None:
    agenda = Agenda()
    agenda.note(record("edits/1-0", None, None))
    assert not agenda.has_due(datetime.max.replace(tzinfo=UTC))


def test_an_edit_that_is_noted_twice_is_named_once() -> None:
    agenda = Agenda()
    for _ in range(2):
        agenda.note(record("edits/1-0", 0, None))
    assert agenda.take_due(NOW) == (["edits/1-0"], [])
