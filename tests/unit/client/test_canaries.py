"""Canaries through both clients, against a server of the same protos."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from errata.launch.show_catalog import event_line
from errata_client import (
    AsyncClient,
    Canary,
    CanaryCounts,
    CanaryRule,
    CanaryState,
    Client,
    EditSpec,
    InvalidEditError,
    InvalidRequestError,
)
from errata_client import _calls as calls
from errata_client._canary_convert import canary as canary_of
from errata_client._catalog_calls import watch_events
from errata_client._gen.errata.v1 import (
    catalog_pb2,
    editing_pb2,
    editing_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    types_pb2,
)

_NAMES = [f"canaries/c{number}" for number in range(5)]


def _open(name: str, **more: Any) -> editing_pb2.Canary:
    return editing_pb2.Canary(
        name=name, state=editing_pb2.Canary.STATE_OPEN, lane="lanes/facts", **more
    )


class Editing(editing_pb2_grpc.EditingServiceServicer):
    """Opens what it is told to, is away at first, and lists two canaries a page."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.num_away = 0
        self._lock = threading.Lock()

    def SetCanary(self, request: Any, context: Any) -> Any:
        self._receive(request, context)
        opened = _open(request.name, opened_seq=7, set_seq=9, share=request.share)
        return editing_pb2.SetCanaryResponse(seq=9, canary=opened)

    def EndCanary(self, request: Any, context: Any) -> Any:
        self._receive(request, context)
        ended = _open(request.name, opened_seq=7, set_seq=9, ended_seq=12)
        promotes = request.outcome == editing_pb2.EndCanaryRequest.OUTCOME_PROMOTE
        ended.state = (
            editing_pb2.Canary.STATE_PROMOTED if promotes else editing_pb2.Canary.STATE_ROLLED_BACK
        )
        return editing_pb2.EndCanaryResponse(seq=12, canary=ended)

    def ListCanaries(self, request: Any, context: Any) -> Any:
        self._receive(request, context)
        begin = int(request.page_token or 0)
        names = [request.name] if request.name else _NAMES[begin : begin + 2]
        more = not request.name and begin + 2 < len(_NAMES)
        return editing_pb2.ListCanariesResponse(
            canaries=[_open(name) for name in names],
            next_page_token=str(begin + 2) if more else "",
        )

    def _receive(self, request: Any, context: Any) -> None:
        with self._lock:
            self.received.append(request)
            away, self.num_away = self.num_away, max(self.num_away - 1, 0)
        if away:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")


class Inference(inference_pb2_grpc.InferenceServiceServicer):
    """Says which canaries a request was in."""

    def Generate(self, request: Any, context: Any) -> Any:
        provenance = inference_pb2.Provenance(
            canaries=["canaries/july"], canary_key=request.canary_key, applied_seq=request.min_seq
        )
        return inference_pb2.GenerateResponse(provenance=provenance)


@pytest.fixture
def editing() -> Editing:
    return Editing()


@pytest.fixture
def target(editing: Editing) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    editing_pb2_grpc.add_EditingServiceServicer_to_server(editing, server)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(Inference(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_canary_is_opened_once_however_often_its_call_is_tried(
    editing: Editing, target: str
) -> None:
    editing.num_away = 2
    rule = CanaryRule(200, 0.02, 3_600)
    with Client(target, timeout=60.0) as client:
        made = client.set_canary(
            "canaries/july",
            0.1,
            lane="lanes/facts",
            namespace="acme",
            readers=["beta"],
            rule=rule,
            comment="ticket 12",
            author="ann",
        )
        assert client.session.last_seq == 9, "its next answers are decided by the canary"
    assert (made.name, made.state, made.share) == ("canaries/july", CanaryState.OPEN, 0.1)
    first, *others = editing.received
    assert len(others) == 2
    assert all(each == first for each in others), "the request id is made once"
    assert (first.namespace, list(first.readers), first.comment) == ("acme", ["beta"], "ticket 12")
    assert first.rule == types_pb2.CanaryRule(
        min_requests=200, max_error_increase=0.02, promote_after_seconds=3_600
    )


async def test_one_reader_can_be_named_alone(editing: Editing, target: str) -> None:
    with Client(target) as client:
        client.set_canary("canaries/july", 0, readers="beta", must_be_new=True)
    async with AsyncClient(target) as client:
        await client.set_canary("canaries/july", 0.5, readers="beta")
    assert [list(each.readers) for each in editing.received] == [["beta"], ["beta"]]
    assert [each.must_be_new for each in editing.received] == [True, False]
    assert all(each.HasField("share") for each in editing.received), "0 is a share"


async def test_an_empty_name_is_no_canary(editing: Editing, target: str) -> None:
    """The list without a name has all of them, and the first would be taken."""
    with Client(target) as client, pytest.raises(InvalidRequestError) as caught:
        client.get_canary("")
    assert caught.value.field == "name"
    async with AsyncClient(target) as client:
        with pytest.raises(InvalidRequestError):
            await client.get_canary("")
    assert not editing.received


def test_edits_of_one_canary_are_asked_for() -> None:
    nothing = (None, "", "", None, None, "", None)
    assert calls.list_edits(*nothing, "canaries/july", "").request.canary == "canaries/july"


def test_without_a_rule_none_is_sent(editing: Editing, target: str) -> None:
    with Client(target) as client:
        client.set_canary("canaries/july", 1)
    (sent,) = editing.received
    assert not sent.HasField("rule")
    assert sent.request_id


@pytest.mark.parametrize(
    ("method", "state"),
    [
        ("promote_canary", CanaryState.PROMOTED),
        ("roll_back_canary", CanaryState.ROLLED_BACK),
    ],
)
async def test_both_clients_end_a_canary(target: str, method: str, state: CanaryState) -> None:
    with Client(target) as client:
        assert getattr(client, method)("canaries/july", comment="well").state is state
        assert client.session.last_seq == 12
    async with AsyncClient(target) as client:
        assert (await getattr(client, method)("canaries/july")).state is state
        assert client.session.last_seq == 12


async def test_all_pages_are_listed_and_one_is_found(editing: Editing, target: str) -> None:
    with Client(target) as client:
        assert [each.name for each in client.list_canaries(only_open=True)] == _NAMES
        assert client.get_canary("canaries/c3").name == "canaries/c3"
    assert all(request.only_open for request in editing.received[:3])
    async with AsyncClient(target) as client:
        assert [each.name async for each in client.list_canaries()] == _NAMES
        assert (await client.get_canary("canaries/c3")).name == "canaries/c3"


def test_an_answer_says_which_canaries_it_was_in(target: str) -> None:
    with Client(target) as client:
        provenance = client.generate("a", canary_key="user 7").provenance
    assert (provenance.canaries, provenance.canary_key) == (("canaries/july",), "user 7")


@pytest.mark.parametrize("method", ["generate", "stream_generate", "generate_everywhere"])
def test_every_request_for_an_answer_carries_its_key(method: str) -> None:
    options = {"min_seq": None, "max_tokens": None, "stop": (), "sampling": None}
    call = getattr(calls, method)("a", **options, num_alternatives=None, canary_key="user 7")
    assert call.request.canary_key == "user 7"
    assert calls.score("a", "b", None, None, (), "user 7").request.canary_key == "user 7"


def test_an_edit_carries_its_canary_there_and_back() -> None:
    spec = EditSpec("a b", "c", canary="canaries/july")
    request = calls.submit_edits([spec], "", "", None).request
    assert request.edits[0].canary == "canaries/july"
    edit = editing_pb2.Edit(name="edits/1-0", spec=request.edits[0])
    response = editing_pb2.GetEditResponse(edit=edit)
    assert calls.get_edit("edits/1-0").parse(response).spec == spec
    with pytest.raises(InvalidEditError, match=r"edits\[0\].canary.*surrogate"):
        calls.submit_edits([EditSpec("a b", "c", canary="\ud800")], "", "", None)


def test_the_counts_of_both_arms_have_shares() -> None:
    assert CanaryCounts() == CanaryCounts(0, 0, 0, 0, 0, 0)
    assert CanaryCounts().error_share is None, "nothing was asked"
    counts = CanaryCounts(8, 2, 4, 1, 96, 2_000_000)
    shares = (counts.claim_share, counts.shaped_share, counts.error_share, counts.mean_seconds)
    assert shares == (0.25, 0.5, 0.125, 0.25)


def test_a_message_of_a_canary_is_read_whole() -> None:
    message = _open("canaries/july", share=0.1, readers=["beta"], edits=["edits/3-0"])
    message.state = 99  # of a later version
    message.rule.min_requests = 5
    message.open_time.FromJsonString("2031-02-03T00:00:00Z")
    message.comparison.canary.requests = 3
    message.comparison.rest.microseconds = 4
    found = canary_of(message)
    assert isinstance(found, Canary)
    assert found.state is CanaryState.UNKNOWN
    assert found.rule == CanaryRule(5, 0.0, 0)
    assert (found.open_time, found.end_time) == (datetime(2031, 2, 3, tzinfo=UTC), None)
    assert found.comparison is not None
    assert (found.comparison.canary.requests, found.comparison.rest.microseconds) == (3, 4)
    assert canary_of(_open("canaries/july")).comparison is None


def test_events_of_canaries_are_told_by_their_names() -> None:
    call = watch_events(None, "", ["canary.rolled_back"], "", follow=False)
    assert list(call.request.kinds) == [catalog_pb2.Event.KIND_CANARY_ROLLED_BACK]
    message = catalog_pb2.Event(
        kind=catalog_pb2.Event.KIND_CANARY_ROLLED_BACK, canary="canaries/july"
    )
    (event,) = call.parse(catalog_pb2.WatchEventsResponse(events=[message]))
    assert (event.kind, event.canary) == ("canary.rolled_back", "canaries/july")
    assert "canary.rolled_back canaries/july" in str(event_line(event))
