"""Channels to one of several servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from errata.platform.gate import Gate
from errata.platform.server import GrpcServer, open_channel
from tests.waiting import PATIENCE

_LOG = "errata.v1.EditLogService"


@asynccontextmanager
async def _server(gate: Gate | None = None) -> AsyncIterator[GrpcServer]:
    server = GrpcServer("127.0.0.1:0", [_LOG], gate=gate)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


async def _states(channel: grpc.aio.Channel, number: int) -> list[int]:
    """What the servers that are called say of themselves."""
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest()
    answers = [
        await stub.Check(request, timeout=PATIENCE, wait_for_ready=True) for _ in range(number)
    ]
    return [answer.status for answer in answers]


async def test_calls_follow_the_health_of_several_servers() -> None:
    gate = Gate("it stands by")
    async with AsyncExitStack() as stack:
        standby = await stack.enter_async_context(_server(gate))
        active = await stack.enter_async_context(_server())
        target = f"127.0.0.1:{standby.port},127.0.0.1:{active.port}"
        channel = await stack.enter_async_context(open_channel(target, only_healthy=True))
        assert set(await _states(channel, 10)) == {health_pb2.HealthCheckResponse.SERVING}
        await active.set_serving(False)
        await standby.open_gate()
        async with asyncio.timeout(PATIENCE):
            while set(await _states(channel, 10)) != {health_pb2.HealthCheckResponse.SERVING}:
                await asyncio.sleep(0.01)
        await active.stop(0)
        assert set(await _states(channel, 10)) == {health_pb2.HealthCheckResponse.SERVING}


async def test_without_regard_to_health_the_first_that_answers_is_called() -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(_server(Gate("it is damaged")))
        second = await stack.enter_async_context(_server())
        target = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        channel = await stack.enter_async_context(open_channel(target))
        assert set(await _states(channel, 5)) == {health_pb2.HealthCheckResponse.NOT_SERVING}
        await first.stop(0)
        assert set(await _states(channel, 5)) == {health_pb2.HealthCheckResponse.SERVING}
