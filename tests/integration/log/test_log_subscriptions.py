"""Streams of the log are counted: one connection cannot take those that replicas need."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from errata.log.subscriber import Subscriber
from errata.platform.server import open_channel
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from errata_client._gen.errata.v1 import edit_log_pb2_grpc
from errata_client.errors import ErrataError, QueueFullError
from tests.integration.log.harness import (
    RedisServer,
    RunningLog,
    eventually,
    log_settings,
    running_log,
    stream_failure,
)
from tests.integration.log.test_log_subscribers import take


async def _open(log: RunningLog, number: int) -> list[Any]:
    calls = [log.stub.Subscribe(pb.SubscribeRequest(from_seq=1)) for _ in range(number)]
    await asyncio.gather(*(call.read() for call in calls))
    return calls


async def _refusal(log: RunningLog) -> ErrataError:
    return await stream_failure(log.stub.Subscribe(pb.SubscribeRequest(from_seq=1)))


async def _is_open_again(log: RunningLog) -> bool:
    call = log.stub.Subscribe(pb.SubscribeRequest(from_seq=1))
    try:
        await call.read()
    except Exception:  # noqa: BLE001 refused
        return False
    call.cancel()
    return True


async def test_streams_are_limited_by_connection_and_in_all(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    settings = log_settings(
        redis_server,
        tmp_path / "witness",
        max_subscriptions=5,
        max_subscriptions_per_connection=3,
    )
    async with running_log(settings) as log, open_channel(log.address) as channel:
        other = RunningLog(log.address, channel, edit_log_pb2_grpc.EditLogServiceStub(channel))
        mine = await _open(log, 3)
        error = await _refusal(log)
        assert isinstance(error, QueueFullError)
        assert error.retry_after_seconds == 5.0
        assert "this connection has 3" in error.message
        theirs = await _open(other, 2)
        assert "the log service has 5" in (await _refusal(other)).message
        mine.pop().cancel()
        await eventually(lambda: _is_open_again(other), "a closed stream makes room")
        for call in (*mine, *theirs):
            call.cancel()


async def test_a_replica_waits_for_room(redis_server: RedisServer, tmp_path: Path) -> None:
    """A refused subscription is a reason to come again, not one to stop."""
    settings = log_settings(redis_server, tmp_path / "witness", max_subscriptions=1)
    async with running_log(settings) as log:
        await log.append(await log.acquire())
        (first,) = await _open(log, 1)
        waiting = asyncio.create_task(take(Subscriber(log.address), 1))
        await asyncio.wait((waiting,), timeout=1)
        assert not waiting.done()
        first.cancel()
        assert [entry.seq for entry in await waiting] == [1]
