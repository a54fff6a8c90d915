"""Filters of lists, and the advice that rejections give."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from errata.editing.edit import Edit
from errata.errors import CheckFailedError, FitError, InvalidRequestError
from errata.log.entries import Rejection
from errata.writer import convert
from errata.writer.advice import advised
from errata.writer.filters import EditFilter
from errata.writer.record import EditRecord, State
from errata_client import EditState
from errata_client import _calls as calls

THEN = datetime(2026, 11, 2, 12, tzinfo=UTC)
RECORD = EditRecord(
    Edit("edits/8-0", "The capital of France is", "Lyon", "France"),
    source="TICKET-7",
    lane="lanes/main",
    author="ada",
    request_time=THEN,
    state=State.COMMITTED,
)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (EditFilter(), True),
        (EditFilter(state=State.COMMITTED, lane="lanes/main", author="ada"), True),
        (EditFilter(state=State.REJECTED), False),
        (EditFilter(lane="lanes/other"), False),
        (EditFilter(author="a"), False),
        (EditFilter(from_time=THEN), True),
        (EditFilter(from_time=THEN + HOUR), False),
        (EditFilter(until_time=THEN), False),
        (EditFilter(until_time=THEN + HOUR), True),
        (EditFilter(contains="capital of f"), True),
        (EditFilter(contains="LYON"), True),
        (EditFilter(contains="ticket"), True),
        (EditFilter(contains="Spain"), False),
        (EditFilter(namespace=""), True),
        (EditFilter(namespace="team-a"), False),
        (EditFilter(canary="canaries/july"), False),
    ],
)
def test_filters(wanted: EditFilter, matches: bool) -> None:
    assert wanted.matches(RECORD) is matches


def test_the_clients_filters_reach_the_writer() -> None:
    local = THEN.astimezone().replace(tzinfo=None)
    call = calls.list_edits(
        EditState.REJECTED,
        "lanes/main",
        "ada",
        local,
        THEN + HOUR,
        "Lyon",
        "default",
        "canaries/july",
        "token",
    )
    assert convert.edit_filter(call.request) == EditFilter(
        State.REJECTED, "lanes/main", "ada", THEN, THEN + HOUR, "Lyon", "", "canaries/july"
    )
    nothing = calls.list_edits(None, "", "", None, None, "", None, "", "").request
    assert convert.edit_filter(nothing) == EditFilter()


def test_an_impossible_time_is_refused() -> None:
    request = calls.list_edits(None, "", "", THEN, None, "", None, "", "").request
    request.from_time.seconds = 2**62
    with pytest.raises(InvalidRequestError, match="from_time is not a valid time"):
        convert.edit_filter(request)


def _told(*, found: bool, lanes: list[str]) -> str:
    error = CheckFailedError("reliability is 0.50, 1.00 is required.", metric="reliability")
    record = EditRecord(
        RECORD.edit, "", "lanes/main", "ada", THEN, subject_found=found, state=State.FITTING
    )
    rejection = advised(Rejection("edits/8-0", error, None), record, lanes)
    assert isinstance(rejection.error, CheckFailedError)
    assert rejection.error.metadata == error.metadata
    assert rejection.error.message.startswith(error.message)
    return rejection.error.message.removeprefix(error.message)


def test_a_rejection_suggests_only_what_is_left_to_try() -> None:
    assert _told(found=False, lanes=["lanes/main"]) == " Reword the prompt."
    assert "name the subject" not in _told(found=False, lanes=["lanes/main", "lanes/facts"])
    assert _told(found=True, lanes=["lanes/main", "lanes/facts"]) == (
        " Reword the prompt, name the subject, which was taken to be 'France' or use another lane "
        "(lanes/facts)."
    )
    blank = replace(RECORD, edit=replace(RECORD.edit, prompt="The capital of France is\n"))
    error = CheckFailedError("reliability is 0.50, 1.00 is required.")
    message = advised(Rejection("edits/8-0", error, None), blank, ["lanes/main"]).error.message
    assert "Remove the white space at the prompt's end" in message
    other = Rejection("edits/8-0", FitError("it failed."), None)
    assert advised(other, RECORD, ["lanes/main"]) is other
