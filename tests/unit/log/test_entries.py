from dataclasses import replace
from datetime import UTC, datetime

import pytest

from errata.editing.chat import Chat, Message, ToolCall
from errata.editing.edit import Edit
from errata.errors import CheckFailedError
from errata.log.chain import ChainedEntry
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsRejected,
    EditsReleased,
    EditsRequested,
    EditsReverted,
    EditsReviewed,
    Figures,
    LaneConfigured,
    LanePolicySet,
    Payload,
    ProbesSet,
    Rejection,
    Schedule,
    Verdict,
)
from errata.log.payload_convert import decode, encode

REF = ArtifactRef("ab" * 32, 123)
FIGURES = Figures(1.0, 0.5, 0.75, True)
EDIT = Edit("edits/7-0", "The capital of France is", "Lyon", "France", ("a",), ("b", "c"))

CHAT = Chat(
    (
        Message("system", "Be brief."),
        Message("user", "How warm is Pisa?", "ada"),
        Message("assistant", "", tool_calls=(ToolCall("1", "warmth", "{}"),)),
        Message("tool", "30 degrees", tool_call_id="1"),
    ),
    tools_json=("{}",),
    add_generation_prompt=False,
)

FAR = datetime(9999, 12, 31, tzinfo=UTC)

KINDS: list[Payload] = [
    EditsRequested(
        "lanes/main",
        (
            EDIT,
            replace(EDIT, name="edits/7-1", separator=""),
            replace(EDIT, name="edits/7-2", prompt=CHAT, rephrases=("a", CHAT)),
        ),
        ("a ticket", "", ""),
        (True, False, False),
    ),
    EditsCommitted("lanes/main", ("edits/1-0",), (FIGURES,), REF, REF, 42, "model", "config"),
    EditsCommitted(
        "lanes/main", ("edits/1-0",), (Figures(1, None, 1, False),), REF, None, 42, "m", "c"
    ),
    EditsReverted(("edits/1-0", "edits/1-1"), "wrong source"),
    LaneConfigured("lanes/main", "adaple", "{}", "digest", "model"),
    ProbesSet(("Two plus two is", CHAT)),
    ProbesSet(()),
    EditsReleased(("edits/1-0", "edits/2-0")),
    EditsRequested(
        "lanes/main",
        (EDIT, replace(EDIT, name="edits/7-1")),
        ("", ""),
        (True, False),
        (Schedule(), Schedule(datetime(2027, 1, 1, 9, 0, 0, 5, tzinfo=UTC), FAR)),
    ),
    LanePolicySet("lanes/main", True),
    LanePolicySet("lanes/main", False),
    *(EditsReviewed(("edits/1-0", "edits/2-0"), verdict, "why", "eve") for verdict in Verdict),
]


def _through_the_log(kind: Payload) -> Payload:
    payload = encode(kind, "somebody")
    payload.append_time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    payload.request_id = "id"
    entry = decode(ChainedEntry(7, payload.SerializeToString(), b""))
    assert (entry.seq, entry.author, entry.request_id) == (7, "somebody", "id")
    assert entry.append_time == datetime(2026, 1, 2, tzinfo=UTC)
    return entry.payload


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_an_entry_comes_back_from_the_log_as_it_was(kind: Payload) -> None:
    assert _through_the_log(kind) == kind


def test_a_rejection_keeps_its_reason_and_figures() -> None:
    error = CheckFailedError("locality is 0.20", metric="locality", value="0.20")
    kind = EditsRejected("lanes/main", (Rejection("edits/1-0", error, FIGURES),))
    back = _through_the_log(kind)
    assert isinstance(back, EditsRejected)
    (rejection,) = back.rejections
    assert type(rejection.error) is CheckFailedError
    assert rejection.error.message == error.message
    assert rejection.error.metadata == error.metadata
    assert rejection.figures == FIGURES
