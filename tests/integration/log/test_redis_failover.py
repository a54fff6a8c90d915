"""P2: what a failover of Redis may lose was never acknowledged, or is told to everyone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from errata.errors import LogBehindWitnessError, LogUnavailableError, StartupError
from errata.log.chain import ChainedEntry
from errata.log.convert import new_entry
from errata.log.store import RedisLog
from errata.log.subscriber import Subscriber
from errata.platform.failpoints import configure_failpoints
from tests.integration.log.harness import (
    RunningLog,
    append_request,
    eventually,
    failure,
    log_settings,
    retried,
    running_log,
    servers,
)
from tests.integration.log.history import History
from tests.integration.log.link import Proxy
from tests.integration.log.replicated import ReplicatedRedis
from tests.integration.log.trimming import HEAD, STREAM, fill

pytestmark = pytest.mark.promise("P2")


@pytest.fixture(params=servers())
def redises(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ReplicatedRedis]:
    """A primary without replicas."""
    found = ReplicatedRedis(tmp_path / "redis", servers()[request.param])
    found.primary.start()
    yield found
    found.close()


async def keep_appending(
    log: RunningLog, epoch: int, history: History, stop: asyncio.Event
) -> None:
    while not stop.is_set():
        await history.append(log, epoch)


@pytest.mark.promise("P1", "P3")
async def test_a_failover_to_a_replica_that_has_everything_goes_on(
    redises: ReplicatedRedis, tmp_path: Path
) -> None:
    for _ in range(2):
        await asyncio.to_thread(redises.add_replica, redises.primary.port)
    await asyncio.to_thread(redises.start_sentinel)
    settings = redises.settings(tmp_path / "witness", min_replica_acks=1)
    history, stop = History(), asyncio.Event()
    seen: list[ChainedEntry] = []
    async with running_log(settings) as log:
        epoch = await log.acquire()

        async def follow() -> None:
            async with aclosing(Subscriber(log.address).batches()) as batches:
                async for batch in batches:
                    seen.extend(batch.entries)

        following = asyncio.create_task(follow())
        async with asyncio.TaskGroup() as clients:
            for _ in range(6):
                clients.create_task(keep_appending(log, epoch, history, stop))
            await eventually(lambda: len(history.acknowledged) >= 150, "150 appends")
            redises.primary.kill()
            await asyncio.to_thread(redises.promoted)
            goal = len(history.acknowledged) + 150
            await eventually(lambda: len(history.acknowledged) >= goal, "appends go on")
            stop.set()
        assert history.num_retries > 0, "the kill hit nothing"
        entries = await log.entries()
        history.judge(entries, min_acknowledged=300)
        await eventually(lambda: len(seen) >= len(entries), "the subscriber has everything")
        assert seen == entries
        following.cancel()


async def test_what_a_cut_off_replica_lacks_is_told_when_it_is_promoted(
    redises: ReplicatedRedis, tmp_path: Path
) -> None:
    history = History()
    async with Proxy(f"127.0.0.1:{redises.primary.port}") as link:
        await asyncio.to_thread(redises.add_replica, int(link.address.rpartition(":")[2]))
        await asyncio.to_thread(redises.start_sentinel)
        settings = redises.settings(tmp_path / "witness")
        async with running_log(settings) as log:
            epoch = await log.acquire()
            for _ in range(5):
                await history.append(log, epoch)
            await eventually(lambda: redises.replicas[0].client.xlen("{errata}:stream") == 5)
            link.blackhole()
            await history.append(log, epoch)  # acknowledged, although no replica has it
            redises.primary.kill()
            await asyncio.to_thread(redises.promoted)

            async def is_told() -> bool:
                error = await failure(log.append(epoch))
                return error.reason == "LOG_BEHIND_WITNESS"

            await eventually(is_told, "the loss is noticed")
            error = await failure(log.append(epoch))
            assert error.code is grpc.StatusCode.DATA_LOSS
            assert redises.replicas[0].client.xlen("{errata}:stream") == 5, "nothing was appended"
        with pytest.raises(LogBehindWitnessError, match="head is 5, but 6 was acknowledged"):
            await RedisLog.open(settings)


@pytest.mark.promise("P1", "P3")
async def test_what_no_replica_has_is_not_acknowledged_and_may_be_lost(
    redises: ReplicatedRedis, tmp_path: Path
) -> None:
    """The log takes back its own entry after the failover; readers have never seen it."""
    history = History()
    async with Proxy(f"127.0.0.1:{redises.primary.port}") as link:
        await asyncio.to_thread(redises.add_replica, int(link.address.rpartition(":")[2]))
        await asyncio.to_thread(redises.start_sentinel)
        acks = {"min_replica_acks": 1, "replica_ack_timeout_seconds": 0.2}
        async with running_log(redises.settings(tmp_path / "witness", **acks)) as log:
            epoch = await retried(log.acquire)
            for _ in range(5):
                await history.append(log, epoch)
            link.blackhole()
            lost = str(uuid.uuid4())
            error = await failure(log.append(epoch, lost, comment=lost))
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "LOG_UNAVAILABLE")
            assert "min_replica_acks" in error.message
            assert "same request id" in error.message
            assert redises.primary.client.xlen("{errata}:stream") == 6, (
                "it is there, unacknowledged"
            )
            assert (await log.head()).head_seq == 5
            assert len(await log.entries()) == 5, "what is acknowledged can be read meanwhile"
            redises.primary.kill()
            new = await asyncio.to_thread(redises.promoted)
            await asyncio.to_thread(redises.add_replica, new.port)
            other = await history.append(log, epoch)  # in the place of the lost one
            assert await history.append(log, epoch, lost) == other + 1 == 7
            history.judge(await log.entries(), min_acknowledged=7)


async def test_restart_shows_nothing_that_no_replica_has(
    redises: ReplicatedRedis, tmp_path: Path
) -> None:
    settings = redises.settings(tmp_path / "witness", min_replica_acks=1)
    settings = settings.model_copy(update={"redis_sentinels": "", "redis_url": redises.primary.url})
    settings = settings.model_copy(update={"replica_ack_timeout_seconds": 0.2})
    async with running_log(settings.model_copy(update={"min_replica_acks": 0})) as log:
        epoch = await log.acquire()
        await log.append(epoch)
    async with running_log(settings) as log:
        lost = str(uuid.uuid4())
        assert (await failure(log.append(epoch, lost, comment=lost))).reason == "LOG_UNAVAILABLE"
    async with running_log(settings) as log:
        assert (await log.head()).head_seq == 1
        await asyncio.to_thread(redises.add_replica, redises.primary.port)
        assert await History().append(log, epoch, lost) == 2
        assert (await log.head()).head_seq == 2


async def test_a_promoted_redis_that_would_lose_entries_ends_the_service(
    redises: ReplicatedRedis, tmp_path: Path
) -> None:
    replica = await asyncio.to_thread(redises.add_replica, redises.primary.port)
    await asyncio.to_thread(redises.start_sentinel)
    replica.client.config_set("appendfsync", "everysec")

    async def serve_until_it_ends() -> None:
        async with running_log(redises.settings(tmp_path / "witness")) as log:
            await log.append(await log.acquire())
            redises.primary.kill()
            assert log.task is not None
            await eventually(log.task.done, "the service ends")

    with pytest.raises(StartupError, match="appendfsync everysec"):
        await serve_until_it_ends()


async def test_sentinels_that_know_no_such_redis_are_said_plainly(
    redises: ReplicatedRedis, tmp_path: Path
) -> None:
    settings = redises.settings(tmp_path / "witness", redis_timeout_seconds=0.5)
    with pytest.raises(StartupError, match="cannot be opened"):
        await RedisLog.open(settings)


@pytest_asyncio.fixture
async def confirmed(
    redises: ReplicatedRedis, tmp_path: Path
) -> AsyncIterator[tuple[RedisLog, int]]:
    """A log whose entries one replica must have, and the epoch of its writer."""
    await asyncio.to_thread(redises.add_replica, redises.primary.port)
    acks = {"min_replica_acks": 1, "replica_ack_timeout_seconds": 1.0}
    log = await RedisLog.open(log_settings(redises.primary, tmp_path / "witness", **acks))
    try:
        epoch = await retried(lambda: log.acquire_epoch("test"))
        entry = new_entry(append_request(epoch))
        await retried(lambda: log.append(entry))
        yield log, epoch
    finally:
        await log.close()


async def test_what_was_confirmed_before_a_rollback_counts_no_longer(
    confirmed: tuple[RedisLog, int], redises: ReplicatedRedis
) -> None:
    """Entry 2 is confirmed and lost before the witness has it: another one takes its place."""
    log, epoch = confirmed
    first = log.head
    configure_failpoints("log.witness.before_sync=error")
    with pytest.raises(LogUnavailableError):
        await fill(log, epoch, 1)
    configure_failpoints("")
    client = redises.primary.client  # as a promoted replica without entry 2 looks
    (name, fields), _ = client.xrange(STREAM)
    client.delete(STREAM)
    client.xadd(STREAM, fields, id=name)
    client.hset(HEAD, mapping={"seq": "1", "digest": first.chain_digest})
    redises.replicas[0].kill()
    with pytest.raises(LogUnavailableError, match="too few replicas"):
        await fill(log, epoch, 1)
    assert log.head == first


async def test_a_full_redis_still_confirms(
    confirmed: tuple[RedisLog, int], redises: ReplicatedRedis
) -> None:
    log, _ = confirmed
    redises.primary.client.config_set("maxmemory", 1)
    log._acknowledged.roll_back()  # forgets what was confirmed, so that it must ask
    log._acknowledged._confirmed = replace(log._acknowledged.record, epoch=0)
    state = await log.state()
    assert state.head == log.head
    redises.primary.client.config_set("maxmemory", 0)


async def test_readers_share_an_attempt_that_failed(
    confirmed: tuple[RedisLog, int], redises: ReplicatedRedis
) -> None:
    """Otherwise each would wait for the replicas in turn, and none would be answered in time."""
    log, epoch = confirmed
    redises.replicas[0].kill()
    with pytest.raises(LogUnavailableError):
        await fill(log, epoch, 1)
    before = log._acknowledged._num_attempts
    states = await asyncio.gather(*[log.state() for _ in range(30)])
    assert {state.head.seq for state in states} == {1}, "what was acknowledged can be read"
    assert log._acknowledged._num_attempts - before <= 3


async def test_sentinels_may_ask_for_a_password_of_their_own(
    redises: ReplicatedRedis, tmp_path: Path
) -> None:
    await asyncio.to_thread(redises.add_replica, redises.primary.port)
    await asyncio.to_thread(redises.start_sentinel, "of-the-sentinels")
    file = tmp_path / "password"
    file.write_text("of-the-sentinels\n")
    settings = redises.settings(tmp_path / "witness", redis_sentinel_password_file=file)
    async with running_log(settings) as log:
        response = await log.append(await log.acquire(), comment="behind a password")
    assert response.seq == 1
    file.write_text("another one")
    with pytest.raises(StartupError, match="auth"):
        await RedisLog.open(settings)
