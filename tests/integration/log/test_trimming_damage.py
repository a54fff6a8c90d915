"""P2: an archive that cannot be read refuses what it holds, and nothing else."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from errata.artifacts import ArtifactStore
from errata.errors import ArtifactCorruptError, DataLossError, ErrataError, PreconditionError
from errata.log.archive import container, trim
from errata.log.archive.index import pack_fold
from errata.log.archive.segment import SegmentRef, pack_segment
from errata.log.chain import ChainedEntry, extend
from errata.log.entries import ArtifactRef
from errata.log.fold import LogFold
from errata.log.store import RedisLog
from errata.platform.settings import LogSettings
from tests.integration.log.harness import RedisServer, failure, running_log
from tests.integration.log.trimming import (
    HEAD,
    all_entries,
    fill,
    forge,
    index_of,
    opened,
    put,
    retained,
    store_of,
    take_snapshot,
    trimming,
)

pytestmark = pytest.mark.promise("P2")


@pytest.fixture
def settings(settings: LogSettings) -> LogSettings:
    return trimming(settings)


@pytest_asyncio.fixture
async def epoch(settings: LogSettings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The epoch of a log with the segments 1–4, 5–8 and 9, and the entries 10 and 11 in Redis."""
    monkeypatch.setattr(trim, "MAX_ENTRIES", 4)
    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        await fill(log, epoch, 10)
        await take_snapshot(log, epoch, store_of(settings), 9)
        await trimmer.step()
    yield epoch


def repacked(data: bytes, **changes: object) -> bytes:
    """The file with another header."""
    start = len(container._MAGIC) + 4
    end = start + int.from_bytes(data[start - 4 : start], "big")
    header = json.dumps(json.loads(data[start:end]) | changes).encode()
    return container._MAGIC + len(header).to_bytes(4, "big") + header + data[end:]


def changed_entry(entries: tuple[ChainedEntry, ...], segment: SegmentRef, log_id: str) -> bytes:
    """A segment of a rewritten history: a valid chain, but not to where this log's goes."""
    position, made = segment.base, []
    for entry in entries:
        position = extend(position, entry.payload + (b"x" if entry.seq == 6 else b""))
        payload = entry.payload + (b"x" if entry.seq == 6 else b"")
        made.append(ChainedEntry(entry.seq, payload, position.chain_digest))
    return pack_segment(log_id, segment.base, made)


Forgery = Callable[[bytes, tuple[ChainedEntry, ...], SegmentRef, str], bytes]

# Files that match their digest and are not what the index must name: name → file, error, words.
FORGED: dict[str, tuple[Forgery, type[ErrataError], str]] = {
    "newer": (lambda d, *_: repacked(d, format=2), PreconditionError, "format 2.*Upgrade"),
    "other log": (lambda d, *_: repacked(d, log_id="f" * 32), ArtifactCorruptError, "log ffff"),
    "other kind": (lambda d, *_: repacked(d, kind="fold"), ArtifactCorruptError, "another kind"),
    "no archive": (lambda d, *_: b"safetensors", ArtifactCorruptError, "not a file of an archive"),
    "short header": (lambda d, *_: d[:40], ArtifactCorruptError, "cut short"),
    "short body": (lambda d, *_: d[:-3], ArtifactCorruptError, "cut short"),
    "no zlib": (lambda d, *_: d[:-60] + bytes(60), ArtifactCorruptError, "decompressed|cut short"),
    "longer": (lambda d, *_: repacked(d, body_bytes=9), ArtifactCorruptError, "longer than it"),
    "huge": (lambda d, *_: repacked(d, body_bytes=2**40), ArtifactCorruptError, "cannot have"),
    "fewer": (lambda d, e, s, i: pack_segment(i, s.base, e[:-1]), ArtifactCorruptError, "entry 7"),
    "gap": (lambda d, e, s, i: pack_segment(i, s.base, e[1:]), ArtifactCorruptError, "chain"),
    "swapped": (lambda d, e, s, i: pack_segment(i, s.base, e[::-1]), ArtifactCorruptError, "chain"),
    "rewritten": (lambda d, e, s, i: changed_entry(e, s, i), ArtifactCorruptError, "entry 8"),
}


async def refuses_only_what_is_damaged(
    settings: LogSettings, server: RedisServer, epoch: int, kind: type[ErrataError], words: str
) -> None:
    """Entries 5 to 8 are refused; the others are read, appended and stay as they are."""
    stored = server.client.hget(HEAD, "archive")
    async with opened(settings) as (log, trimmer):
        for seq in (5, 8):
            with pytest.raises(kind, match=words):
                await log.read(seq, 1)
        assert [entry.seq for entry in (await log.read(1, 9)).entries] == [1, 2, 3, 4]
        assert [entry.seq for entry in (await log.read(9, 9)).entries] == [9]
        assert [entry.seq for entry in (await log.read(10, 9)).entries] == [10, 11]
        await trimmer.step()
        assert server.client.hget(HEAD, "archive") == stored
        await fill(log, epoch, 1)
        assert not log.is_damaged
        assert retained(server) == [10, 11, 12]
    async with running_log(settings) as served:
        error = await failure(served.entries(5))
        assert error.code in (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.FAILED_PRECONDITION)
        assert "Restore" in str(error) or "Upgrade" in str(error)
        assert (await served.append(epoch)).seq == 13


@pytest.mark.parametrize("forgery", FORGED)
async def test_a_segment_that_is_not_the_indexs_is_refused(
    settings: LogSettings, redis_server: RedisServer, epoch: int, forgery: str
) -> None:
    make, kind, words = FORGED[forgery]
    store = store_of(settings)
    async with opened(settings) as (log, _):
        segment = (await index_of(log)).segments[1]
        entries = (await log.read(5, 4)).entries
        data = make(store.load(segment.ref.digest), entries, segment, log.log_id)
        await forge(log, redis_server, store, 1, data)
    await refuses_only_what_is_damaged(settings, redis_server, epoch, kind, words)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "flipped": lambda path: path.write_bytes(
        path.read_bytes()[:-9] + bytes([path.read_bytes()[-9] ^ 1]) + path.read_bytes()[-8:]
    ),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
}


async def file_of(settings: LogSettings, which: str) -> Path:
    async with opened(settings) as (log, _):
        index = await index_of(log)
        reading = await log.records.backend.read(1, 0, 1)
    assert reading is not None
    assert reading.archive is not None
    refs = {"segment": index.segments[1].ref, "fold": index.fold, "index": reading.archive}
    return Path(store_of(settings).path_of(refs[which].digest))


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_segment_is_refused_and_the_rest_goes_on(
    settings: LogSettings, redis_server: RedisServer, epoch: int, damage: str
) -> None:
    DAMAGES[damage](await file_of(settings, "segment"))
    kind = PreconditionError if damage == "missing" else DataLossError
    await refuses_only_what_is_damaged(settings, redis_server, epoch, kind, "Restore")


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_fold_is_made_again_from_the_segments(
    settings: LogSettings, redis_server: RedisServer, epoch: int, damage: str
) -> None:
    file = await file_of(settings, "fold")
    async with opened(settings) as (log, _):
        lanes = log._tip.admission.fold.lanes
    DAMAGES[damage](file)
    async with opened(settings) as (log, trimmer):
        assert log._tip.admission.fold.lanes == lanes
        await fill(log, epoch, 1)
        await take_snapshot(log, epoch, store_of(settings), 12)
        await trimmer.step()
        assert retained(redis_server) == [13]
        assert [entry.seq for entry in await all_entries(log)] == list(range(1, 14))


async def test_a_fold_of_another_history_is_not_used(
    settings: LogSettings, redis_server: RedisServer, epoch: int
) -> None:
    """Its bytes match their digest; it ends at another chain digest or another entry."""
    store = store_of(settings)
    other = LogFold()
    other.seq = 9
    async with opened(settings) as (log, _):
        archive, index = log.records.archive, await index_of(log)
        assert archive is not None
        right = await archive.fold(log.log_id, index)
        assert len(right.lanes) == 9
        for position, fold in ((index.segments[0].end, other), (index.position, LogFold())):
            data = pack_fold(log.log_id, position, fold)
            ref = ArtifactRef(store.save(data), len(data))
            found = await archive.fold(log.log_id, replace(index, fold=ref))
            assert found.lanes == right.lanes


@pytest.mark.parametrize("damage", DAMAGES)
async def test_without_an_index_appends_go_on_until_a_restart(
    settings: LogSettings, redis_server: RedisServer, epoch: int, damage: str
) -> None:
    """Then nothing says which entries could follow: they are refused until it is restored."""
    file = await file_of(settings, "index")
    data = file.read_bytes()
    async with opened(settings) as (log, _):
        DAMAGES[damage](file)
        await fill(log, epoch, 1)
    async with opened(settings) as (log, trimmer):
        await refused(log, epoch)
        with pytest.raises((PreconditionError, DataLossError), match="Restore"):
            await log.read(9, 1)
        with pytest.raises((PreconditionError, DataLossError), match="Restore"):
            await trimmer.step()
        assert [entry.seq for entry in (await log.read(10, 9)).entries] == [10, 11, 12]
    file.write_bytes(data)
    async with opened(settings) as (log, _):
        await fill(log, epoch, 1)
        assert [entry.seq for entry in await all_entries(log)] == list(range(1, 14))


async def refused(log: RedisLog, epoch: int) -> None:
    with pytest.raises(PreconditionError, match=r"archive cannot be read.*Restore.*restart"):
        await fill(log, epoch, 1)


async def test_an_archive_that_does_not_end_where_redis_begins_is_refused(
    settings: LogSettings, redis_server: RedisServer, epoch: int
) -> None:
    redis_server.client.xtrim("{errata}:stream", minid="11-0", approximate=False)
    async with opened(settings) as (log, _):
        with pytest.raises(ArtifactCorruptError, match=r"ends at entry 9.*before 11"):
            await log.read(9, 1)
        await refused(log, epoch)
        assert [entry.seq for entry in (await log.read(11, 9)).entries] == [11]


async def test_the_archive_of_another_log_is_refused(
    settings: LogSettings, redis_server: RedisServer, epoch: int
) -> None:
    """As after a restore of Redis alone, under a new identity."""
    redis_server.client.hset(HEAD, "log_id", "e" * 32)
    settings.witness_path.unlink()
    settings = settings.model_copy(update={"adopt_unwitnessed": True})
    async with opened(settings) as (log, _):
        with pytest.raises(ArtifactCorruptError, match="belongs to log"):
            await log.read(1, 1)
        await refused(log, epoch)


def test_a_small_file_cannot_expand_without_limit() -> None:
    bomb = container.pack("segment", "a" * 32, {}, bytes(1_000))
    start = bomb.index(zlib.compress(bytes(1_000)))
    forged = bomb[:start] + zlib.compress(bytes(50_000_000))
    with pytest.raises(ArtifactCorruptError, match="longer than it says"):
        container.unpack(forged, "segment", "a" * 32)


async def test_a_damaged_last_segment_is_kept_and_not_filled_up(
    settings: LogSettings, redis_server: RedisServer, epoch: int
) -> None:
    """The next trim moves only entries of which it has made and verified a copy."""
    store: ArtifactStore = store_of(settings)
    async with opened(settings) as (log, _):
        last = (await index_of(log)).segments[-1]
        Path(store.path_of(last.ref.digest)).unlink()
    async with opened(settings) as (log, trimmer):
        await take_snapshot(log, epoch, store, 11)
        await trimmer.step()
        index = await index_of(log)
        assert [segment.end.seq for segment in index.segments] == [4, 8, 9, 11]
        assert index.segments[2] == last
        with pytest.raises(PreconditionError, match="missing"):
            await log.read(9, 1)
        assert [entry.seq for entry in (await log.read(10, 9)).entries] == [10, 11]
        await put(log, epoch, log._tip.admission.fold.lanes.popitem()[1])
