"""P1, P2, P3: a trim that is killed at any step loses nothing, and the next one completes it."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog
from structlog.typing import EventDict, WrappedLogger

from errata.errors import LogUnavailableError
from errata.log.chain import ChainedEntry
from errata.platform.addresses import free_port
from errata.platform.settings import LogSettings
from tests.integration.log.harness import (
    SERVE,
    LogProcess,
    RedisServer,
    RunningLog,
    connected,
    eventually,
)
from tests.integration.log.history import History, judge_order
from tests.integration.log.trimming import (
    all_entries,
    archive_of,
    fill,
    opened,
    retained,
    store_of,
    take_snapshot,
    trimming,
)
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.promise("P1"), pytest.mark.promise("P2"), pytest.mark.promise("P3")]

BEFORE = ("snapshot checked", "segment stored", "fold stored", "index stored")
AFTER = ("entries removed", "request ids forgotten")


@pytest.fixture
def settings(settings: LogSettings) -> LogSettings:
    """Ids are forgotten at once, so that every trim has every step."""
    return trimming(settings, request_id_horizon_seconds=0.0, trim_interval_seconds=0.05)


async def grow(settings: LogSettings) -> tuple[list[ChainedEntry], int]:
    """Adds entries and a snapshot that covers them; all entries, and the snapshot's position."""
    async with opened(settings) as (log, _):
        epoch = await log.acquire_epoch("test")
        await fill(log, epoch, 5)
        covered = log.head.seq
        await take_snapshot(log, epoch, store_of(settings), covered)
        return await all_entries(log), covered


def die_at(settings: LogSettings, step: str) -> None:
    """Runs a log service until it dies at this step of a trim."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, str(SERVE), address, settings.model_dump_json(), step]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=PATIENCE, check=False)
    assert ended.returncode == -signal.SIGKILL


async def test_a_log_service_killed_between_any_two_steps_loses_and_repeats_nothing(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    for step in (*BEFORE, *AFTER):
        before, covered = await grow(settings)
        old = retained(redis_server), archive_of(redis_server)
        await asyncio.to_thread(die_at, settings, step)
        if step in BEFORE:
            assert (retained(redis_server), archive_of(redis_server)) == old
        else:
            assert retained(redis_server) == [covered + 1]
        async with opened(settings) as (log, trimmer):
            assert await all_entries(log) == before
            await trimmer.step()
            assert retained(redis_server) == [covered + 1]
            assert await all_entries(log) == before
    judge_order(before)


@contextmanager
def at_step(step: str, redis_server: RedisServer) -> Iterator[None]:
    """Kills Redis when the step is logged."""

    def watch(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if event.get("step") == step:
            redis_server.kill()
        raise structlog.DropEvent

    old = structlog.get_config()
    # Steps are told at the debug level, which another test's configuration may leave out.
    everything = structlog.make_filtering_bound_logger(logging.NOTSET)
    structlog.configure(processors=[watch], wrapper_class=everything)
    try:
        yield
    finally:
        structlog.configure(**old)


async def test_a_redis_killed_between_any_two_steps_loses_and_repeats_nothing(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    for step in (*BEFORE, *AFTER):
        before, covered = await grow(settings)
        async with opened(settings) as (log, trimmer):
            with at_step(step, redis_server), pytest.raises(LogUnavailableError):
                await trimmer.step()
            redis_server.start()
            assert retained(redis_server)[-1] == covered + 1
            assert await all_entries(log) == before
            await trimmer.step()
            assert retained(redis_server) == [covered + 1]
            assert await all_entries(log) == before


async def test_kills_under_clients_that_go_on_lose_and_repeat_nothing(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    """Trims go on all the time; clients retry until each append is acknowledged."""
    settings = trimming(settings, trim_interval_seconds=0.01)
    witness = settings.witness_path.with_name("beside")
    beside = settings.model_copy(update={"witness_path": witness, "adopt_unwitnessed": True})
    service, history, stop = LogProcess(settings), History(), asyncio.Event()

    async def keep_appending(log: RunningLog, epoch: int) -> None:
        while not stop.is_set():
            await history.append(log, epoch)

    try:
        await service.start()
        async with connected(service.address) as log, asyncio.TaskGroup() as clients:
            epoch = await log.acquire()
            for _ in range(4):
                clients.create_task(keep_appending(log, epoch))
            async with opened(beside) as (other, _):
                for kills_redis in (True, False, True, False):
                    goal = len(history.acknowledged) + 25
                    await eventually(lambda goal=goal: len(history.acknowledged) >= goal)
                    await other.state()
                    covered = other.head.seq
                    await take_snapshot(other, epoch, store_of(settings), covered)
                    if kills_redis:
                        await asyncio.to_thread(redis_server.restart)
                    else:
                        service.kill()
                        await service.start()
            stop.set()
        assert history.num_retries >= 4, "the kills hit nothing"
        await eventually(lambda: retained(redis_server)[0] == covered + 1, "the last trim")
        async with connected(service.address) as log:
            history.judge(await log.entries(), min_acknowledged=100)
    finally:
        service.kill()
