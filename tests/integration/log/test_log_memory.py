"""A Redis without room for edits still takes reverts, outcomes and a new writer."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import grpc

from errata.artifacts import ArtifactStore
from errata.log.memory import RedisMemory
from errata_client.errors import ErrataError, LimitExceededError
from tests.integration.log.entries import BYTES, append, commit, lane, reject, request, revert
from tests.integration.log.harness import (
    RedisServer,
    RunningLog,
    failure,
    log_settings,
    running_log,
)

_ROOM, _RESERVE = 3_000_000, 1_000_000


def _limit(redis_server: RedisServer) -> None:
    """Leaves Redis that much room above what it uses now."""
    client: Any = redis_server.client
    client.config_set("maxmemory", client.info("memory")["used_memory"] + _ROOM)


async def _filled(log: RunningLog, epoch: int) -> ErrataError:
    """Appends edits until one is refused."""
    for _ in range(2 * _ROOM // 100_000):
        call = log.append_large(epoch, 100_000)
        try:
            await call
        except grpc.aio.AioRpcError:
            return await failure(log.append_large(epoch, 100_000))
    raise AssertionError("nothing was refused")


async def test_edits_leave_a_reserve_to_reverts_outcomes_and_epochs(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    settings = log_settings(redis_server, tmp_path / "witness", memory_reserve_bytes=_RESERVE)
    store = ArtifactStore(str(tmp_path / "artifacts"))
    await store.put(BYTES)
    async with running_log(settings, store) as log:
        epoch = await log.acquire()
        first = str(uuid.uuid4())
        await log.append(epoch, first)
        await append(log, epoch, lane("lanes/main"))
        seq = await append(log, epoch, request("lanes/main", 2))
        await append(log, epoch, commit(f"edits/{seq}-0", name="lanes/main"))
        pending = await append(log, epoch, request("lanes/main", 2))
        _limit(redis_server)
        error = await _filled(log, epoch)
        assert isinstance(error, LimitExceededError)
        assert "reserved for reverts" in error.message
        assert int(error.metadata["free_bytes"]) >= _RESERVE - 100_000
        head = (await log.head()).head_seq
        assert (await log.append(epoch, first)).duplicate, "a retry of what was accepted"
        reverted = revert(f"edits/{seq}-0")
        assert await append(log, epoch, reverted) == head + 1
        rejected = reject(f"edits/{pending}-0", name="lanes/main")
        assert await append(log, epoch, rejected) == head + 2
        committed = commit(f"edits/{pending}-1", name="lanes/main")
        assert await append(log, epoch, committed) == head + 3
        assert await log.acquire("the next writer") == epoch + 1
        assert isinstance(await failure(log.append_large(epoch + 1, 100_000)), LimitExceededError)
        redis_server.client.config_set("maxmemory", 0)
        await log.append_large(epoch + 1, 100_000)


async def test_without_a_reserve_a_full_redis_takes_nothing(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """The control: this is what the reserve is for."""
    settings = log_settings(redis_server, tmp_path / "witness", memory_reserve_bytes=0)
    async with running_log(settings) as log:
        epoch = await log.acquire()
        await append(log, epoch, lane("lanes/main"))
        seq = await append(log, epoch, request("lanes/main"))
        _limit(redis_server)
        assert "has reached its maxmemory" in (await _filled(log, epoch)).message
        client: Any = redis_server.client
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 10_000)
        rejected = append(log, epoch, reject(f"edits/{seq}-0", name="lanes/main"))
        assert isinstance(await failure(rejected), LimitExceededError)
        assert isinstance(await failure(log.acquire()), LimitExceededError)


def test_at_most_a_quarter_is_reserved() -> None:
    info = {"used_memory": 50, "mem_not_counted_for_evict": 10, "maxmemory": 1_000}
    assert RedisMemory.of(info, 100) == RedisMemory(40, 1_000, 100)
    assert RedisMemory.of(info, 900) == RedisMemory(40, 1_000, 250)
    assert RedisMemory.of({"used_memory": 50}, 100) == RedisMemory(50, 0, 0)
