"""What is forwarded keeps the limits; a request that does not goes no further than the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx2
import pytest

from errata.errors import ErrataError, QueueFullError
from errata.gateway import forward
from errata.gateway.http.app import build_app
from errata.gateway.rates import Rates
from errata.platform.addresses import free_port
from errata.platform.rpc_errors import service_error
from errata.platform.server import GrpcServer, open_channel
from errata.platform.settings import GatewaySettings
from errata_client._gen.errata.v1 import edit_log_pb2_grpc, editing_pb2, editing_pb2_grpc
from errata_client._gen.errata.v1.edit_log_pb2 import GetArtifactRequest
from errata_client._gen.errata.v1.types_pb2 import EditSpec
from tests.waiting import PATIENCE


@pytest.fixture
async def gateway() -> AsyncIterator[grpc.aio.Channel]:
    """A gateway in front of services that are away: what reaches them gets UNAVAILABLE."""
    async with _gateway(GatewaySettings()) as channel:
        yield channel


@asynccontextmanager
async def _gateway(settings: GatewaySettings) -> AsyncIterator[grpc.aio.Channel]:
    server = GrpcServer("127.0.0.1:0", [])
    async with open_channel(f"127.0.0.1:{free_port()}") as nobody:
        server.server.add_generic_rpc_handlers(
            forward.handlers(nobody, nobody, nobody, Rates(settings))
        )
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield channel
        await server.stop(0)


async def _reason(call: Any) -> ErrataError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return service_error(caught.value)


_SUBMIT = editing_pb2.SubmitEditsRequest
_CASES: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "a million names": (
        lambda stub: stub.WaitEdits(editing_pb2.WaitEditsRequest(names=["edits/1-0"] * 1_000_000)),
        *("LIMIT_EXCEEDED", "names"),
    ),
    "a prompt": (
        lambda stub: stub.SubmitEdits(_SUBMIT(edits=[EditSpec(prompt="a" * 100_001)])),
        *("INVALID_REQUEST", "edits[0].prompt"),
    ),
    "an author": (
        lambda stub: stub.SubmitEdits(_SUBMIT(author="a" * 900_000)),
        *("INVALID_REQUEST", "author"),
    ),
    "a lane": (
        lambda stub: stub.SubmitEdits(_SUBMIT(lane="a" * 200_000)),
        *("INVALID_REQUEST", "lane"),
    ),
    "a source": (
        lambda stub: stub.SubmitEdits(_SUBMIT(edits=[EditSpec(source="a" * 4_001)])),
        *("INVALID_REQUEST", "edits[0].source"),
    ),
    "a comment": (
        lambda stub: stub.RevertEdits(editing_pb2.RevertEditsRequest(comment="a" * 4_001)),
        *("INVALID_REQUEST", "comment"),
    ),
    "within the limits": (
        lambda stub: stub.GetEdit(editing_pb2.GetEditRequest(name="edits/1-0")),
        *("UNAVAILABLE", None),
    ),
}


@pytest.mark.parametrize("case", _CASES)
async def test_only_what_keeps_the_limits_is_forwarded(
    gateway: grpc.aio.Channel, case: str
) -> None:
    call, reason, field = _CASES[case]
    error = await _reason(call(editing_pb2_grpc.EditingServiceStub(gateway)))
    assert error.reason == reason
    assert error.field == field


async def test_streams_keep_the_limits(gateway: grpc.aio.Channel) -> None:
    stub: Any = edit_log_pb2_grpc.EditLogServiceStub(gateway)
    error = await _reason(stub.GetArtifact(GetArtifactRequest(digest="a" * 300)).read())
    assert (error.reason, error.field) == ("INVALID_REQUEST", "digest")


async def test_bytes_that_are_no_message_are_the_callers_fault(gateway: grpc.aio.Channel) -> None:
    call = gateway.unary_unary("/errata.v1.EditingService/GetEdit")
    error = await _reason(call(b"\x0a\x03\xed\xa0\x80"))
    assert error.reason == "INVALID_REQUEST"


async def test_http_keeps_the_limits() -> None:
    pool: Any = None
    async with open_channel(f"127.0.0.1:{free_port()}") as nobody:
        transport = httpx2.ASGITransport(build_app(pool, nobody, nobody, nobody, GatewaySettings()))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.post(
                "/v1/edits:wait", json={"names": ["edits/1-0"] * 1_001}, timeout=PATIENCE
            )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "limit_exceeded", "names")


async def test_edits_of_one_caller_are_counted_by_lane() -> None:
    settings = GatewaySettings(edits_per_second=0.001, edits_burst=3)
    edits = [EditSpec(prompt="France is", target="a", subject="France")] * 2
    async with _gateway(settings) as channel:
        stub: Any = editing_pb2_grpc.EditingServiceStub(channel)
        passed = await _reason(stub.SubmitEdits(_SUBMIT(edits=edits, lane="lanes/a")))
        assert passed.reason == "UNAVAILABLE", "nobody is behind the gateway"
        refused = await _reason(stub.SubmitEdits(_SUBMIT(edits=edits, lane="lanes/a")))
        assert isinstance(refused, QueueFullError)
        assert 0 < (refused.retry_after_seconds or 0) <= 1_000
        elsewhere = await _reason(stub.SubmitEdits(_SUBMIT(edits=edits, lane="lanes/b")))
        assert elsewhere.reason == "UNAVAILABLE"
        revert = editing_pb2.RevertEditsRequest(names=["edits/1-0"])
        for _ in range(5):
            assert (await _reason(stub.RevertEdits(revert))).reason == "UNAVAILABLE"


async def test_http_counts_with_grpc() -> None:
    pool: Any = None
    settings = GatewaySettings(edits_per_second=0.001, edits_burst=3)
    rates = Rates(settings)
    rates.edit("ipv4:127.0.0.1", "", 2)
    async with open_channel(f"127.0.0.1:{free_port()}") as nobody:
        transport = httpx2.ASGITransport(
            build_app(pool, nobody, nobody, nobody, settings, rates), client=("127.0.0.1", 1)
        )
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.post("/v1/edits", json={"edits": [{}, {}]}, timeout=PATIENCE)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 1_000
