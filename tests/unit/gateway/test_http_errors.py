"""Every error has a status, a body in the OpenAI API's form, and no more than a caller may know."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from errata import errors
from errata.gateway.http.errors import HttpError, failure_of
from errata.platform.rpc_errors import error_classes

_STATUSES = {
    errors.InvalidEditError: 400,
    errors.NotFoundError: 404,
    errors.RequestIdReusedError: 409,
    errors.LimitExceededError: 400,
    errors.LaneFullError: 400,
    errors.QueueFullError: 429,
    errors.EditNotRevertibleError: 400,
    errors.SeqBeyondHeadError: 400,
    errors.DeadlineExceededError: 504,
    errors.ReplicaBehindError: 503,
    errors.LogBehindWitnessError: 500,
    errors.ErrataError: 500,
}


@pytest.mark.parametrize("kind", error_classes())
def test_every_error_has_a_status_and_a_body(kind: type[errors.ErrataError]) -> None:
    failure = failure_of(kind("what. Do this.", field="edits[0].target", limit=3))
    assert failure.status in (400, 401, 403, 404, 409, 429, 500, 503, 504)
    error = failure.body["error"]
    assert error["message"] == "what. Do this."
    assert error["param"] == "edits[0].target"
    assert error["code"] == kind.reason.lower()
    assert error["errata"] == {"reason": kind.reason, "metadata": {"limit": "3"}}
    assert (error["type"] == "server_error") is (failure.status >= 500)


@pytest.mark.parametrize("kind", _STATUSES)
def test_statuses_tell_who_can_help(kind: type[errors.ErrataError]) -> None:
    assert failure_of(kind("x.")).status == _STATUSES[kind]


def test_a_full_queue_tells_when_to_come_again() -> None:
    assert failure_of(errors.QueueFullError("x.", retry_after_seconds=1.6)).headers == {
        "Retry-After": "2"
    }
    assert failure_of(errors.QueueFullError("x.")).headers == {}


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("chat", "messages"),
        ("chat.messages", "messages"),
        ("chat.messages[2].content", "messages[2].content"),
        ("chat.tools_json[1]", "tools[1]"),
        ("chat.continue_final_message", "continue_final_message"),
        ("sampling.top_p", "top_p"),
        ("num_alternatives", "top_logprobs"),
        ("min_seq", "min_seq"),
        (None, None),
    ],
)
def test_fields_have_the_names_of_the_api(field: str | None, param: str | None) -> None:
    error = errors.InvalidRequestError("x.", field=field)
    assert failure_of(error).body["error"]["param"] == param


def test_a_bug_is_logged_and_not_told() -> None:
    with capture_logs() as logs:
        failure = failure_of(ZeroDivisionError("a prompt"))
    (logged,) = logs
    assert failure.status == 500
    assert "a prompt" not in json.dumps(failure.body)
    assert logged["trace_id"] in failure.body["error"]["message"]


def test_an_error_of_http_alone_keeps_its_headers() -> None:
    error = HttpError(413, "less.", code="request_too_large", headers={"Connection": "close"})
    assert failure_of(error).headers == {"Connection": "close"}


def test_what_an_error_repeats_is_cut() -> None:
    text = "線" * 70_000
    for error in (
        errors.UnknownLaneError(f"no lane {text}; choose another.", field=text, lane=text),
        HttpError(400, f"no lane {text}; choose another.", code="c", param=text),
    ):
        failure = failure_of(error)
        assert len(failure.response().body) < 4_096
        message = failure.body["error"]["message"]
        assert message.startswith("no lane 線")
        assert message.endswith("; choose another.")
