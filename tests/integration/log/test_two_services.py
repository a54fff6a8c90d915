"""Two log services on one Redis, both active: one may die, and the other knows what was lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from errata.errors import LogBehindWitnessError
from errata.log.chain import ChainedEntry
from errata.log.store import RedisLog
from errata.log.subscriber import Subscriber
from errata.platform.server import open_channel
from errata.platform.settings import LogSettings
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from errata_client._gen.errata.v1 import edit_log_pb2_grpc
from tests.integration.log.harness import (
    LogProcess,
    RedisServer,
    RunningLog,
    eventually,
    failure,
    log_settings,
    running_log,
)
from tests.integration.log.history import History


@pytest.fixture
def other_settings(redis_server: RedisServer, tmp_path: Path) -> LogSettings:
    """The second service's: the same Redis, and a witness of its own."""
    return log_settings(redis_server, tmp_path / "other" / "witness")


@pytest_asyncio.fixture
async def pair(
    settings: LogSettings, other_settings: LogSettings
) -> AsyncIterator[tuple[LogProcess, LogProcess]]:
    first, second = LogProcess(settings), LogProcess(other_settings)
    try:
        await first.start()
        await second.start()
        yield first, second
    finally:
        for each in (first, second):
            if each.process is not None:
                each.process.send_signal(signal.SIGCONT)
            each.kill()


@pytest.mark.promise("P1", "P2", "P3")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_one_of_two_services_may_die_or_freeze_under_load(
    pair: tuple[LogProcess, LogProcess], how: signal.Signals
) -> None:
    first, second = pair
    target = f"{first.address},{second.address}"
    history, stop = History(), asyncio.Event()
    seen: list[ChainedEntry] = []

    async def follow() -> None:
        async with aclosing(Subscriber(target).batches()) as batches:
            async for batch in batches:
                seen.extend(batch.entries)

    async def keep_appending(log: RunningLog) -> None:
        while not stop.is_set():
            await history.append(log, epoch)

    async with open_channel(target) as channel:
        log = RunningLog(target, channel, edit_log_pb2_grpc.EditLogServiceStub(channel))
        epoch = await log.acquire()
        following = asyncio.create_task(follow())
        async with asyncio.TaskGroup() as clients:
            for _ in range(6):
                clients.create_task(keep_appending(log))
            await eventually(lambda: len(history.acknowledged) >= 100, "100 appends")
            assert first.process is not None
            os.kill(first.process.pid, how)  # the first is the one that is called
            goal = len(history.acknowledged) + 100
            await eventually(lambda: len(history.acknowledged) >= goal, "appends go on")
            stop.set()
        assert history.num_retries > 0, "the signal hit nothing"
        entries = await log.entries()
        history.judge(entries, min_acknowledged=200)
        await eventually(lambda: len(seen) >= len(entries), "the subscriber has everything")
        assert seen == entries
        following.cancel()


@pytest.mark.promise("P4")
async def test_an_epoch_that_one_service_granted_fences_at_the_other(
    settings: LogSettings, other_settings: LogSettings
) -> None:
    async with running_log(settings) as log, running_log(other_settings) as other:
        old = await log.acquire("old")
        assert await other.acquire("new") == old + 1
        for service in (log, other):
            assert (await failure(service.append(old))).reason == "EPOCH_LOST"


async def _fill(service: RunningLog, num_entries: int) -> int:
    epoch = await service.acquire()
    for number in range(num_entries):
        await service.append(epoch, comment=str(number))
    return epoch


@pytest.mark.promise("P2")
async def test_a_service_that_never_saw_what_was_lost_is_warned_by_the_one_that_did(
    settings: LogSettings, other_settings: LogSettings, redis_server: RedisServer, tmp_path: Path
) -> None:
    async with running_log(other_settings) as other:
        await other.head()
    async with running_log(settings) as log:
        await _fill(log, 5)
    redis_server.kill()
    intact = shutil.copytree(redis_server.folder, tmp_path / "intact")
    redis_server.truncate_aof(5)
    redis_server.start()
    async with running_log(other_settings) as other:
        assert (await other.head()).head_seq == 4, "by its own witness nothing is missing"
        epoch = await other.acquire()
        await other.append(epoch, comment="in the place of the lost one")
        with pytest.raises(LogBehindWitnessError):
            await RedisLog.open(settings)

        async def is_told() -> bool:
            try:
                await other.append(epoch)
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.DATA_LOSS
            return False  # it has not looked yet

        await eventually(is_told, "the other service stops")
    with pytest.raises(LogBehindWitnessError):
        await RedisLog.open(other_settings)
    redis_server.kill()
    shutil.rmtree(redis_server.folder)
    shutil.copytree(intact, redis_server.folder)
    redis_server.start()
    async with running_log(settings) as log:
        assert (await log.head()).head_seq == 5, "a restored Redis needs no other word"


@pytest.mark.promise("P2")
async def test_a_warning_ends_when_the_operator_accepts_the_loss(
    settings: LogSettings, other_settings: LogSettings, redis_server: RedisServer
) -> None:
    async with running_log(settings) as log:
        await _fill(log, 3)
    redis_server.kill()
    redis_server.truncate_aof(5)
    redis_server.start()
    with pytest.raises(LogBehindWitnessError):
        await RedisLog.open(settings)
    unwitnessed = other_settings.model_copy(update={"adopt_unwitnessed": True})
    async with running_log(unwitnessed) as other:
        assert (await other.head()).head_seq == 2
        await _fill(other, 2)


@pytest.mark.promise("P4")
async def test_the_lease_holds_standbys_back_and_only_the_active_writer_renews_it(
    settings: LogSettings, other_settings: LogSettings, redis_server: RedisServer
) -> None:
    def standby(name: str) -> pb.AcquireEpochRequest:
        return pb.AcquireEpochRequest(writer=name, only_if_free=True, lease_ttl_ms=3_600_000)

    async with running_log(settings) as log, running_log(other_settings) as other:
        assert (await log.head()).lease_left_ms == 0
        first = (await log.stub.AcquireEpoch(standby("first"))).epoch
        assert first == 1
        assert 0 < (await other.head()).lease_left_ms <= 3_600_000
        assert (await other.stub.AcquireEpoch(standby("second"))).epoch == 0
        await log.append(first, comment="nothing was fenced")
        await other.stub.RenewLease(pb.RenewLeaseRequest(epoch=first, lease_ttl_ms=1_000_000))
        assert 0 < (await log.head()).lease_left_ms <= 1_000_000
        redis_server.client.delete("{errata}:lease")  # as when its time is up
        await log.append(first, comment="a lease that has ended takes nothing away")
        second = (await other.stub.AcquireEpoch(standby("second"))).epoch
        assert second == 2
        renewal = pb.RenewLeaseRequest(epoch=first, lease_ttl_ms=1)
        assert (await failure(log.stub.RenewLease(renewal))).reason == "EPOCH_LOST"
        assert (await failure(log.append(first))).reason == "EPOCH_LOST"
        assert (await log.head()).lease_left_ms > 1, "the old writer has not shortened it"
        await log.stub.RenewLease(pb.RenewLeaseRequest(epoch=second, lease_ttl_ms=0))
        assert (await log.stub.AcquireEpoch(standby("third"))).epoch == 3
        bad = pb.AcquireEpochRequest(writer="w", lease_ttl_ms=-1)
        assert (await failure(log.stub.AcquireEpoch(bad))).field == "lease_ttl_ms"
        assert (await failure(log.stub.RenewLease(pb.RenewLeaseRequest()))).field == "epoch"
