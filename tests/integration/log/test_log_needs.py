"""The sizes that `errata plan` gives for the log are those that Redis has."""

from __future__ import annotations

import hashlib
import secrets

import pytest

from errata.editing.lane.needs import EditLoad
from errata.log.append import NewEntry
from errata.log.needs import (
    FILE_ENTRY_BYTES,
    REDIS_ENTRY_BYTES,
    REQUEST_ID_BYTES,
    log_needs,
    request_bytes,
)
from errata.log.store import RedisLog
from errata.platform.settings import LogSettings
from tests.integration.log.harness import RedisServer, append_request

NUM_ENTRIES = 1_000


async def test_an_entry_takes_its_payload_and_a_constant(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    log = await RedisLog.open(settings)
    epoch = await log.acquire_epoch("test")
    size = request_bytes(EditLoad(num_edits=1, batch_edits=1))
    await _append(log, epoch, 100, size)  # the first entries allocate what later ones use
    memory, file = _used(redis_server), redis_server.aof.stat().st_size
    await _append(log, epoch, NUM_ENTRIES, size)
    in_memory = (_used(redis_server) - memory) / NUM_ENTRIES - size
    in_file = (redis_server.aof.stat().st_size - file) / NUM_ENTRIES - size
    await log.close()
    # A hash and a stream grow in steps, so that a measurement of some entries varies.
    assert 0.6 * REDIS_ENTRY_BYTES < in_memory < 1.2 * REDIS_ENTRY_BYTES, in_memory
    assert 0.9 * FILE_ENTRY_BYTES < in_file < 1.1 * FILE_ENTRY_BYTES, in_file


def test_requests_and_commits_add_up() -> None:
    load = EditLoad(num_edits=100, batch_edits=10)
    memory, file = log_needs(load, commits=10)
    assert memory.num_bytes > 110 * REDIS_ENTRY_BYTES + 100 * request_bytes(load)
    assert file.num_bytes - memory.num_bytes == 110 * (FILE_ENTRY_BYTES - REDIS_ENTRY_BYTES)


def test_trims_leave_a_constant_number_of_entries_and_the_ids_of_the_others() -> None:
    small, large = (EditLoad(num_edits=n, batch_edits=10) for n in (10_000, 90_000))
    (all_of_small, _), (kept, ids, until_trimmed, _) = (
        log_needs(load, commits=load.num_edits // 10, kept_entries=11_000)
        for load in (small, large)
    )
    assert kept.num_bytes == pytest.approx(all_of_small.num_bytes, rel=0.01)
    assert ids.num_bytes == (99_000 - 11_000) * REQUEST_ID_BYTES
    assert (kept.during, ids.during, until_trimmed.during) == ("", "", "commit")
    untrimmed, _ = log_needs(large, commits=9_000)
    assert kept.num_bytes + ids.num_bytes + until_trimmed.num_bytes == untrimmed.num_bytes


async def _append(log: RedisLog, epoch: int, number: int, size: int) -> None:
    for _ in range(number):
        request = append_request(epoch, comment="")
        content = request.payload
        content.request_id = request.request_id
        content.author = secrets.token_hex(size)
        content.author = content.author[: size - content.ByteSize()]  # as much as is too much
        assert content.ByteSize() == size
        digest = hashlib.sha256(request.request_id.encode()).digest()
        await log.append(NewEntry(epoch, request.request_id, digest, content.SerializeToString()))


def _used(server: RedisServer) -> int:
    return int(server.client.info("memory")["used_memory_dataset"])
