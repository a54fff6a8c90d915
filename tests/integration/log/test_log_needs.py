"""The sizes that `errata plan` gives for the log are those that Redis has."""

from __future__ import annotations

import hashlib
import secrets

from errata.editing.lane.needs import EditLoad
from errata.log.append import NewEntry
from errata.log.needs import FILE_ENTRY_BYTES, REDIS_ENTRY_BYTES, log_needs, request_bytes
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
