"""Logs that are trimmed: entries, snapshots that cover them, and looks at what is where."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from errata.artifacts import ArtifactStore
from errata.log.archive.index import ArchiveIndex, pack_index
from errata.log.archive.segment import SegmentRef
from errata.log.chain import ChainedEntry
from errata.log.convert import new_entry
from errata.log.entries import ArtifactRef, Payload
from errata.log.store import RedisLog
from errata.log.trimmer import Trimmer
from errata.platform.settings import LogSettings
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from tests.integration.log.entries import message, snapshot
from tests.integration.log.harness import RedisServer, append_request, retried

HEAD, STREAM, REQUESTS = "{errata}:head", "{errata}:stream", "{errata}:requests"


def trimming(settings: LogSettings, **changes: Any) -> LogSettings:
    """Settings that trim at once, and keep nothing."""
    now = {"trim_grace_seconds": 0.0, "trim_keep_entries": 0}
    return settings.model_copy(update={**now, **changes})


def store_of(settings: LogSettings) -> ArtifactStore:
    """The store that `running_log` and `serve_log.py` use, too."""
    return ArtifactStore(str(settings.witness_path.parent / "artifacts"))


@asynccontextmanager
async def opened(settings: LogSettings) -> AsyncIterator[tuple[RedisLog, Trimmer]]:
    log = await RedisLog.open(settings, store_of(settings))
    try:
        yield log, Trimmer(settings, log)
    finally:
        await log.close()


async def fill(log: RedisLog, epoch: int, num_entries: int) -> list[str]:
    """Appends entries; their request ids."""
    ids = [str(uuid.uuid4()) for _ in range(num_entries)]
    for request_id in ids:
        await log.append(new_entry(append_request(epoch, request_id, comment=request_id)))
    return ids


async def put(log: RedisLog, epoch: int, payload: Payload) -> int:
    """Appends an entry as clients do, who retry with the same key; its position.

    A slow log service beside a busy one can lose every race for the next position for a while.
    """
    asked = pb.AppendRequest(request_id=str(uuid.uuid4()), epoch=epoch, payload=message(payload))
    return (await retried(lambda: log.append(new_entry(asked)))).seq


async def take_snapshot(log: RedisLog, epoch: int, store: ArtifactStore, seq: int) -> int:
    """Stores a manifest with one part and appends the entry that names it; its position."""
    part = ArtifactRef(store.save(f"state at {seq}".encode()), len(f"state at {seq}"))
    parts = {"lanes/a/contents": [[part.digest, part.size_bytes]]}
    manifest = json.dumps({"lane_models": {}, "parts": parts}).encode()
    ref = ArtifactRef(store.save(manifest), len(manifest))
    digest = (await log.read(seq, 1)).entries[0].chain_digest
    return await put(log, epoch, snapshot(seq, chain_digest=digest, manifest=ref))


async def all_entries(log: RedisLog) -> list[ChainedEntry]:
    """From entry 1 on, as `errata log` and audits read them."""
    found: list[ChainedEntry] = []
    while len(found) < log.head.seq:
        found += (await log.read(len(found) + 1, 1_000)).entries
    return found


def retained(server: RedisServer) -> list[int]:
    """The positions of the entries in Redis."""
    return [int(name.split(b"-")[0]) for name, _ in server.client.xrange(STREAM)]


def archive_of(server: RedisServer) -> ArtifactRef | None:
    name = server.client.hget(HEAD, "archive")
    if name is None:
        return None
    digest, size = name.decode().split(":")
    return ArtifactRef(digest, int(size))


async def index_of(log: RedisLog) -> ArchiveIndex:
    reading = await log.records.read(log.head.seq + 1, 0, 1)
    assert reading is not None
    return await log.records.index(reading)


async def forge(
    log: RedisLog, server: RedisServer, store: ArtifactStore, number: int, data: bytes
) -> SegmentRef:
    """Makes the index name other bytes as one of its segments; returns the segment before."""
    index = await index_of(log)
    segments = list(index.segments)
    old = segments[number]
    segments[number] = replace(old, ref=ArtifactRef(store.save(data), len(data)))
    file = pack_index(log.log_id, replace(index, segments=tuple(segments)))
    server.client.hset(HEAD, "archive", f"{store.save(file)}:{len(file)}")
    return old
