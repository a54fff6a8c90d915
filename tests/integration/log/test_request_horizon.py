"""P3 of a trimmed log: request ids are remembered up to the horizon; Redis stays small."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from errata.errors import RequestIdReusedError
from errata.log.archive import horizon
from errata.log.archive.horizon import forget_requests
from errata.log.convert import new_entry
from errata.log.payload_convert import decode
from errata.platform.settings import LogSettings
from tests.integration.log.harness import RedisServer, append_request
from tests.integration.log.trimming import (
    HEAD,
    REQUESTS,
    STREAM,
    all_entries,
    fill,
    opened,
    retained,
    store_of,
    take_snapshot,
    trimming,
)

pytestmark = pytest.mark.promise("P3")


def known(server: RedisServer) -> set[str]:
    """The request ids in Redis."""
    return {key.decode() for key in server.client.hkeys(REQUESTS)}


@pytest.mark.parametrize("step", [2, 500])
async def test_ids_of_trimmed_entries_beyond_the_horizon_are_forgotten(
    settings: LogSettings, redis_server: RedisServer, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(horizon, "_STEP", step)
    async with opened(trimming(settings)) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        trimmed = await fill(log, epoch, 5)
        kept = await fill(log, epoch, 2)
        await take_snapshot(log, epoch, store_of(settings), 5)
        await trimmer.step()
        assert known(redis_server) >= {*trimmed, *kept}, "the horizon is a week"
        for request_id in (trimmed[0], kept[0]):  # a retry is a duplicate, trimmed or not
            retry = new_entry(append_request(epoch, request_id, comment=request_id))
            assert (await log.append(retry)).duplicate
        other = new_entry(append_request(epoch, trimmed[0], comment="other"))
        with pytest.raises(RequestIdReusedError):
            await log.append(other)

        times = [decode(entry).append_time for entry in await all_entries(log)]
        assert await forget_requests(log.records, times[3]) == times[3]
        assert known(redis_server) & {*trimmed} == {*trimmed[3:]}
        assert await forget_requests(log.records, times[3]) == times[3], "a second time"
        later = datetime.now(UTC) + timedelta(days=1)
        assert await forget_requests(log.records, later) is None
        assert known(redis_server) & {*trimmed, *kept} == {*kept}, "retained entries keep theirs"
        retry = new_entry(append_request(epoch, trimmed[0], comment="afresh"))
        assert not (await log.append(retry)).duplicate, "beyond the horizon it is a new request"


async def test_an_id_that_was_used_again_stays(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    """It belongs to the later entry, also if forgetting the first one is repeated."""
    settings = trimming(settings, request_id_horizon_seconds=0.0)
    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        (request_id, *_) = await fill(log, epoch, 3)
        await take_snapshot(log, epoch, store_of(settings), 3)
        await trimmer.step()
        assert request_id not in known(redis_server)
        again = new_entry(append_request(epoch, request_id, comment="again"))
        assert (await log.append(again)).seq == 5
        redis_server.client.hdel(HEAD, "forgotten_seq")  # as if its write had been lost
        await forget_requests(log.records, datetime.now(UTC))
        assert request_id in known(redis_server)
        assert (await log.append(again)).duplicate


async def test_two_services_that_forget_do_not_go_back(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    async with opened(trimming(settings, request_id_horizon_seconds=0.0)) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        await fill(log, epoch, 3)
        before = await log.records.backend.read(1, 0, 1)
        await take_snapshot(log, epoch, store_of(settings), 3)
        await trimmer.step()
        assert redis_server.client.hget(HEAD, "forgotten_seq") == b"3"
        assert before is not None
        assert not await log.records.backend.forget(before, 1, [(str(uuid.uuid4()), 1)])
        assert redis_server.client.hget(HEAD, "forgotten_seq") == b"3"


async def test_redis_stays_as_small_as_it_is_under_a_constant_rate_of_entries(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    """Lengths and bytes, not times: with a snapshot every 50 entries, 600 need what 100 need."""
    settings = trimming(settings, trim_keep_entries=50, request_id_horizon_seconds=0.0)
    sizes, memory = [], []
    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        for _ in range(12):
            await fill(log, epoch, 49)
            await take_snapshot(log, epoch, store_of(settings), log.head.seq)
            await trimmer.step()
            sizes.append((len(retained(redis_server)), redis_server.client.hlen(REQUESTS)))
            memory.append(redis_server.client.memory_usage(STREAM, samples=0))
        assert log.head.seq == 600
        assert sizes[1:] == [(51, 51)] * 11, (
            "a round, and the entry that names the snapshot before it"
        )
        assert max(memory[1:]) < 1.5 * memory[1]
        assert redis_server.client.hlen(HEAD) == 7
        assert len(await all_entries(log)) == 600


async def test_control_without_trims_redis_grows(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    async with opened(trimming(settings, trim=False)) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        for _ in range(4):
            await fill(log, epoch, 49)
            await take_snapshot(log, epoch, store_of(settings), log.head.seq)
            await trimmer.step()
        assert (len(retained(redis_server)), redis_server.client.hlen(REQUESTS)) == (200, 200)
