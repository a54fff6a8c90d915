"""Requests keep declared limits, which are checked before any other work."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from errata.errors import ErrataError, InvalidRequestError, LimitExceededError
from errata.platform.limits import BYTES, CHARS, ITEMS, MAX_PROMPT_CHARS, TOTAL_CHARS
from errata.platform.limits_convert import check_request
from errata.platform.server import GrpcServer, open_channel
from errata_client._gen.errata.v1 import (
    catalog_pb2,
    edit_log_pb2,
    edit_log_pb2_grpc,
    editing_pb2,
    inference_pb2,
    retrieval_pb2,
    types_pb2,
)
from tests.waiting import PATIENCE

_FILES = (catalog_pb2, edit_log_pb2, editing_pb2, inference_pb2, retrieval_pb2)


def _requests() -> list[Descriptor]:
    services = [s for file in _FILES for s in file.DESCRIPTOR.services_by_name.values()]
    return [method.input_type for service in services for method in service.methods]


def _fields(message: Descriptor, seen: set[str]) -> Iterator[FieldDescriptor]:
    """All fields of our own messages below one; google.rpc.Status is made by the services."""
    if message.full_name in seen or not message.full_name.startswith("errata."):
        return
    seen.add(message.full_name)
    for field in message.fields:
        yield field
        if field.message_type is not None:
            yield from _fields(field.message_type, seen)


def _all_fields() -> list[FieldDescriptor]:
    seen: set[str] = set()
    return [field for request in _requests() for field in _fields(request, seen)]


def test_every_field_of_every_request_has_a_limit_and_no_limit_lacks_a_field() -> None:
    found: dict[int, set[str]] = {}
    lists = set()
    for field in _all_fields():
        key = field.full_name.removeprefix("errata.v1.")
        found.setdefault(field.type, set()).add(key)
        if field.is_repeated:
            lists.add(key)
    assert set(CHARS) == found[FieldDescriptor.TYPE_STRING]
    assert set(BYTES) == found[FieldDescriptor.TYPE_BYTES]
    assert set(ITEMS) == lists
    assert set(TOTAL_CHARS) <= {request.name for request in _requests()}


def _refused(message: Message) -> ErrataError:
    with pytest.raises(ErrataError) as caught:
        check_request(message)
    return caught.value


def test_what_is_too_long_is_named() -> None:
    generate = inference_pb2.GenerateRequest
    too_long = _refused(generate(prompt="a" * (MAX_PROMPT_CHARS + 1)))
    assert isinstance(too_long, InvalidRequestError)
    assert (too_long.field, too_long.metadata["limit"]) == ("prompt", str(MAX_PROMPT_CHARS))
    turns = [types_pb2.ChatMessage(role="user", content="a" * 600_000)] * 2
    together = _refused(generate(chat=types_pb2.Chat(messages=turns)))
    assert together.metadata["num_chars"] == str(1_200_000 + 2 * len("user"))
    edits = [types_pb2.EditSpec(), types_pb2.EditSpec(rephrases=["a", "b" * 100_001])]
    nested = _refused(editing_pb2.SubmitEditsRequest(edits=edits))
    assert nested.field == "edits[1].rephrases[1]"
    position = edit_log_pb2.ReplicaPosition(replica="r")
    position.resident["lanes/" + "x" * 300].values["a"] = 1
    inside = _refused(edit_log_pb2.ReportPositionRequest(position=position))
    assert inside.field == "position.resident[0].key"
    many = _refused(editing_pb2.WaitEditsRequest(names=["edits/1-0"] * 1_001))
    assert isinstance(many, LimitExceededError)
    assert (many.field, many.metadata["num_items"]) == ("names", "1001")
    check_request(generate(prompt="a" * MAX_PROMPT_CHARS))
    check_request(editing_pb2.WaitEditsRequest(names=["edits/1-0"] * 1_000))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e-39, -1e-40])
def test_numbers_are_finite_and_whole(value: float) -> None:
    for field in ("temperature", "top_p"):
        sampling = inference_pb2.Sampling(**{field: value})
        refused = _refused(inference_pb2.GenerateRequest(sampling=sampling))
        assert refused.field == f"sampling.{field}"
    doubles: Any = {1e-39: 1e-310, -1e-40: -1e-310}
    order = editing_pb2.CompactLaneRequest(max_loss=doubles.get(value, value))
    assert _refused(order).field == "max_loss"


def test_ordinary_numbers_pass() -> None:
    for value in (0.0, 1e-3, 0.7, 10.0):
        sampling = inference_pb2.Sampling(temperature=value, top_p=value)
        check_request(inference_pb2.GenerateRequest(sampling=sampling))


def test_the_page_is_what_the_tool_makes() -> None:
    tool = Path(__file__).parents[3] / "tools/make_limits_page.py"
    assert subprocess.run([sys.executable, str(tool), "--check"], check=False).returncode == 0


async def test_a_connection_has_a_thousand_calls_at_once() -> None:
    """Further calls wait in the client, or are refused so that they can be tried again."""
    most, now, go_on = 0, 0, asyncio.Event()

    class Waiting(edit_log_pb2_grpc.EditLogServiceServicer):
        async def GetHead(self, request: object, context: object) -> Any:
            nonlocal most, now
            now += 1
            most = max(most, now)
            await go_on.wait()
            now -= 1
            return edit_log_pb2.GetHeadResponse()

    server = GrpcServer("127.0.0.1:0", [])
    edit_log_pb2_grpc.add_EditLogServiceServicer_to_server(Waiting(), server.server)
    await server.start()
    async with open_channel(f"127.0.0.1:{server.port}") as channel:
        stub: Any = edit_log_pb2_grpc.EditLogServiceStub(channel)
        request = edit_log_pb2.GetHeadRequest()
        calls = [asyncio.ensure_future(stub.GetHead(request))]
        async with asyncio.timeout(PATIENCE):
            while not now:  # before the server has told its settings, a client knows no limit
                await asyncio.sleep(0.01)
            calls += [asyncio.ensure_future(stub.GetHead(request)) for _ in range(1_050)]
            while now + sum(call.done() for call in calls) < 1_000:
                await asyncio.sleep(0.01)
        go_on.set()
        ended = await asyncio.gather(*calls, return_exceptions=True)
    await server.stop(0)
    refused = [end for end in ended if isinstance(end, grpc.aio.AioRpcError)]
    assert {error.code() for error in refused} <= {grpc.StatusCode.UNAVAILABLE}
    assert len(refused) < len(ended) / 2
    assert most <= 1_000
