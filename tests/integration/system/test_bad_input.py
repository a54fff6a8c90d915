"""Bad input through the front door: status, reason, remedy, and nothing changed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import grpc
import pytest

from errata.demo import Corpus
from errata_client import Client, EditSpec, ErrataError, Sampling
from errata_client import errors as client_errors
from errata_client._gen.errata.v1 import (
    edit_log_pb2,
    edit_log_pb2_grpc,
    editing_pb2,
    editing_pb2_grpc,
    types_pb2,
)
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE

GOOD = EditSpec("The capital of France is", "Lyon", "France")
Act = Callable[[Client], object]

CASES: dict[str, tuple[Act, grpc.StatusCode, str, str]] = {
    "empty prompt": (
        lambda c: c.submit_edits([EditSpec("", "x")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_EDIT",
        "edits[0].prompt",
    ),
    "empty target": (
        lambda c: c.submit_edits([GOOD, EditSpec("France is", " ")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_EDIT",
        "edits[1].target",
    ),
    "over-long prompt": (
        lambda c: c.submit_edits([EditSpec("word " * 3_000 + "France", "x", "France")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_EDIT",
        "edits[0].prompt",
    ),
    "over-long target": (
        lambda c: c.submit_edits([EditSpec("France is", "word " * 700, "France")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_EDIT",
        "edits[0].target",
    ),
    "subject elsewhere": (
        lambda c: c.submit_edits([EditSpec("France is", "x", "Spain")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_EDIT",
        "edits[0].subject",
    ),
    "control character": (
        lambda c: c.submit_edits([EditSpec("France\x00 is", "x", "France")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_EDIT",
        "edits[0].prompt",
    ),
    "unknown lane": (
        lambda c: c.submit_edits([GOOD], lane="lanes/none"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "UNKNOWN_LANE",
        "lane",
    ),
    "no edit": (
        lambda c: c.submit_edits([]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "edits",
    ),
    "too many edits": (
        lambda c: c.submit_edits([GOOD] * 101),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "LIMIT_EXCEEDED",
        "edits",
    ),
    "request id": (
        lambda c: c.submit_edits([GOOD], request_id="7"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "request_id",
    ),
    "no such edit": (
        lambda c: c.get_edit("edits/999-0"),
        grpc.StatusCode.NOT_FOUND,
        "NOT_FOUND",
        "",
    ),
    "revert nothing": (
        lambda c: c.revert([]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "names",
    ),
    "revert what is not": (
        lambda c: c.revert(["edits/999-0"]),
        grpc.StatusCode.NOT_FOUND,
        "NOT_FOUND",
        "",
    ),
    "empty question": (
        lambda c: c.generate(" "),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "prompt",
    ),
    "question too long": (
        lambda c: c.generate("word " * 5_000),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "prompt",
    ),
    "no tokens": (
        lambda c: c.generate("a", max_tokens=0),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "max_tokens",
    ),
    "too many tokens": (
        lambda c: c.generate("a", max_tokens=10**6),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "LIMIT_EXCEEDED",
        "max_tokens",
    ),
    "a negative number of tokens": (
        lambda c: c.generate("a", max_tokens=-3),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "max_tokens",
    ),
    "too hot": (
        lambda c: c.generate("a", sampling=Sampling(temperature=11.0)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "sampling.temperature",
    ),
    "no temperature at all": (
        lambda c: c.generate("a", sampling=Sampling(temperature=float("nan"))),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "sampling.temperature",
    ),
    "nearly no temperature": (
        lambda c: c.generate("a", sampling=Sampling(temperature=1e-39)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "sampling.temperature",
    ),
    "a temperature that divides by nearly nothing": (
        lambda c: c.generate("a", sampling=Sampling(temperature=9e-4)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "sampling.temperature",
    ),
    "a prompt of 15 MB": (
        lambda c: c.generate("word " * 3_000_000),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "prompt",
    ),
    "stacked marks": (
        lambda c: c.generate("a" + "\u0301\u0316" * 50),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "prompt",
    ),
    "an endless lane": (
        lambda c: c.submit_edits([GOOD], lane="lanes/" + "x" * 200_000),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "lane",
    ),
    "an endless author": (
        lambda c: c.submit_edits([GOOD], author="x" * 900_000),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "author",
    ),
    "a million names": (
        lambda c: c.wait_edits(["edits/1-0"] * 1_000_000),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "LIMIT_EXCEEDED",
        "names",
    ),
    "no share of the tokens": (
        lambda c: c.generate("a", sampling=Sampling(top_p=0.0)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "sampling.top_p",
    ),
    "fewer than no tokens": (
        lambda c: list(c.stream("a", sampling=Sampling(top_k=-1))),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "sampling.top_k",
    ),
    "too many alternatives": (
        lambda c: c.generate("a", num_alternatives=21),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "LIMIT_EXCEEDED",
        "num_alternatives",
    ),
    "an empty stop text": (
        lambda c: c.generate("a", stop=["b", ""]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "stop[1]",
    ),
    "an endless stop text": (
        lambda c: c.generate("a", stop=["b" * 300]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "stop[0]",
    ),
    "streamed, too": (
        lambda c: list(c.stream("a", max_tokens=0)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "max_tokens",
    ),
    "min_seq beyond the head": (
        lambda c: c.generate("a", min_seq=10**6),
        grpc.StatusCode.OUT_OF_RANGE,
        "SEQ_BEYOND_HEAD",
        "min_seq",
    ),
    "nothing to score": (
        lambda c: c.score("a", ""),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "continuation",
    ),
    "bad page": (
        lambda c: list(c.entries(from_seq=-1)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "from_seq",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_its_status_and_changes_nothing(client: Client, case: str) -> None:
    act, code, reason, field = CASES[case]
    before = client.head()
    with pytest.raises(ErrataError) as caught:
        act(client)
    error = caught.value
    assert (error.code, error.reason, error.field or "") == (code, reason, field)
    assert error.message.endswith(".")
    assert client.head() == before


def test_a_request_id_with_other_content_is_refused(client: Client, corpus: Corpus) -> None:
    edit = corpus.demo_edits()[0]
    request_id = str(uuid.uuid4())
    (accepted,) = client.submit_edits(
        [EditSpec(edit.prompt, edit.target, edit.subject)], request_id=request_id
    )
    client.wait_edits([accepted.name])
    before = client.head()
    with pytest.raises(client_errors.RequestIdReusedError) as caught:
        client.submit_edits([EditSpec(edit.prompt, "other", edit.subject)], request_id=request_id)
    assert caught.value.code is grpc.StatusCode.ALREADY_EXISTS
    assert int(caught.value.metadata["first_seq"]) < before.seq
    assert client.head() == before
    client.revert([accepted.name])


def test_an_edit_is_reverted_once(client: Client, corpus: Corpus) -> None:
    edit = corpus.demo_edits()[1]
    done = client.edit(edit.prompt, edit.target, subject=edit.subject)
    client.revert([done.name])
    before = client.head()
    with pytest.raises(client_errors.EditNotRevertibleError) as caught:
        client.revert([done.name])
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.metadata["state"] == "reverted"
    assert client.head() == before


def test_min_seq_beyond_the_head_is_answered_long_before_the_deadline(client: Client) -> None:
    begun = time.monotonic()
    with pytest.raises(client_errors.OutOfRangeError) as caught:
        client.generate("The capital of France is", min_seq=10**9, timeout=4 * PATIENCE)
    assert time.monotonic() - begun < PATIENCE, "whoever waits for the position waits four times so"
    assert int(caught.value.metadata["head_seq"]) == client.head().seq


def test_bytes_that_are_no_utf8_are_refused_behind_the_gateway(system: System) -> None:
    spec = types_pb2.EditSpec(prompt="France@@@ is", target="x", subject="France")
    request = editing_pb2.SubmitEditsRequest(request_id=str(uuid.uuid4()), edits=[spec])
    data = request.SerializeToString().replace(b"@@@", b"\xed\xa0\x80")
    with grpc.insecure_channel(system.target) as channel:
        call = channel.unary_unary("/errata.v1.EditingService/SubmitEdits")
        with pytest.raises(grpc.RpcError) as caught:
            call(data, timeout=PATIENCE)
    error = client_errors.from_rpc_error(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


def test_nobody_appends_through_the_gateway(system: System) -> None:
    with grpc.insecure_channel(system.target) as channel:
        stub = edit_log_pb2_grpc.EditLogServiceStub(channel)
        for call, request in (
            (stub.Append, edit_log_pb2.AppendRequest()),
            (stub.AcquireEpoch, edit_log_pb2.AcquireEpochRequest()),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert stub.GetHead(edit_log_pb2.GetHeadRequest(), timeout=PATIENCE).head_seq > 0
    with grpc.insecure_channel(system.target) as channel:
        lanes = editing_pb2_grpc.EditingServiceStub(channel).ListLanes(
            editing_pb2.ListLanesRequest(), timeout=PATIENCE
        )
        assert [lane.name for lane in lanes.lanes] == [
            "lanes/experts",
            "lanes/facts",
            "lanes/main",
            "lanes/mixture",
        ]
