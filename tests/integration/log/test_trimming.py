"""P1 and P2 of a trimmed log: nothing is lost, reads go from entry 1 on, appends go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from errata.artifacts import files
from errata.errors import (
    ArtifactCorruptError,
    LogBehindWitnessError,
    PreconditionError,
    SeqTrimmedError,
    UnavailableError,
)
from errata.launch.verify.run import verify
from errata.log.archive import trim
from errata.log.chain import ORIGIN, Position, verify_run
from errata.log.feed import Feed
from errata.log.metrics import LogCollector
from errata.log.positions import ReplicaTable
from errata.log.remote import RemoteLog
from errata.log.store import RedisLog
from errata.log.subscriptions import Subscriptions
from errata.log.trimmer import Trimmer
from errata.platform.settings import LogSettings, load_settings
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from tests.integration.log.entries import CONFIG_DIGEST, snapshot
from tests.integration.log.harness import (
    RedisServer,
    eventually,
    running_log,
    stream_failure,
)
from tests.integration.log.trimming import (
    HEAD,
    all_entries,
    archive_of,
    fill,
    index_of,
    opened,
    put,
    retained,
    store_of,
    take_snapshot,
    trimming,
)

pytestmark = [pytest.mark.promise("P1"), pytest.mark.promise("P2")]


@pytest.fixture
def settings(settings: LogSettings) -> LogSettings:
    return trimming(settings)


@pytest_asyncio.fixture
async def log(settings: LogSettings) -> AsyncIterator[tuple[RedisLog, Trimmer]]:
    async with opened(settings) as found:
        yield found


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trim, "MAX_ENTRIES", 4)


@pytest.mark.usefixtures("small_segments")
async def test_a_trimmed_log_reads_from_entry_1_as_before(
    log: tuple[RedisLog, Trimmer], settings: LogSettings, redis_server: RedisServer, tmp_path: Path
) -> None:
    store, trimmer = log
    epoch = await store.acquire_epoch("test")
    await fill(store, epoch, 10)
    await take_snapshot(store, epoch, store_of(settings), 9)
    before = await all_entries(store)
    await trimmer.step()
    assert retained(redis_server) == [10, 11]
    assert (await store.state()).floor_seq == trimmer.floor_seq == 10
    assert await all_entries(store) == before
    assert [s.end.seq for s in (await index_of(store)).segments] == [4, 8, 9]
    for seq in (1, 4, 5, 9, 10):
        page = await store.read(seq, 3)
        assert page.base == (before[seq - 2].position if seq > 1 else ORIGIN)
        assert await store.holds(page.base)
        assert verify_run(page.base, page.entries).seq == page.entries[-1].seq
    assert not await store.holds(Position(3, bytes(32)))

    # The last segment has room: the next trim fills it up.
    await fill(store, epoch, 3)
    await take_snapshot(store, epoch, store_of(settings), 14)
    before = await all_entries(store)
    await trimmer.step()
    assert [s.end.seq for s in (await index_of(store)).segments] == [4, 8, 12, 14]
    assert retained(redis_server) == [15]
    assert await all_entries(store) == before

    flags = {"data_dir": tmp_path, "log": {"redis_url": redis_server.url}}
    report = await verify(load_settings(flags), file=None, from_box=False, export=None)
    assert (report.ok, report.head_seq, report.checked["chain"]) == (True, 15, 15)


async def test_a_reopened_log_goes_on_from_the_fold_and_reads_no_segment(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        await fill(log, epoch, 8)
        await take_snapshot(log, epoch, store_of(settings), 8)
        await trimmer.step()
        fold = log._tip.admission.fold
        (segment,) = (await index_of(log)).segments
    Path(store_of(settings).path_of(segment.ref.digest)).unlink()
    async with opened(settings) as (log, _):
        assert log._tip.admission.fold.standings() == fold.standings()
        assert log._tip.admission.fold.lanes == fold.lanes
        assert log._tip.admission.fold.snapshot == fold.snapshot
        await fill(log, epoch, 1)
        assert log.head.seq == 10
        lane = next(iter(fold.lanes.values()))  # of an archived entry
        other = replace(lane, config_json="{}", config_digest=CONFIG_DIGEST)
        with pytest.raises(PreconditionError, match="already has another configuration"):
            await put(log, epoch, other)


async def test_a_subscriber_below_the_floor_is_told_where_to_begin(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        await fill(log, epoch, 6)
        await take_snapshot(log, epoch, store_of(settings), 5)
        await trimmer.step()
        snapshot_taken = log._tip.admission.fold.snapshot
    assert snapshot_taken is not None
    async with running_log(settings) as served:
        error = await stream_failure(served.stub.Subscribe(pb.SubscribeRequest(from_seq=5)))
        assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "SEQ_TRIMMED")
        assert error.metadata["floor_seq"] == "6"
        assert error.metadata["snapshot_seq"] == "5"
        assert error.metadata["manifest_digest"] == snapshot_taken.manifest.digest
        assert error.metadata["manifest_size_bytes"] == str(snapshot_taken.manifest.size_bytes)
        stream = served.stub.Subscribe(pb.SubscribeRequest(from_seq=6))
        assert [entry.seq for entry in (await stream.read()).entries] == [6, 7]
        stream.cancel()
        assert [entry.seq for entry in await served.entries()] == list(range(1, 8))
        remote = RemoteLog(served.channel)
        assert [entry.seq async for entry in remote.all_entries()] == list(range(1, 8))


async def test_the_service_trims_by_itself_and_goes_on(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    settings = settings.model_copy(update={"trim_interval_seconds": 0.02})
    async with opened(settings) as (log, _):
        epoch = await log.acquire_epoch("test")
        await fill(log, epoch, 6)
        await take_snapshot(log, epoch, store_of(settings), 6)
    async with running_log(settings) as served:
        await eventually(lambda: retained(redis_server) == [7], "the trim")
        assert (await served.head()).floor_seq == 7
        assert (await served.append(epoch)).seq == 8


@pytest.mark.parametrize(
    ("change", "trims"),
    [
        ({}, True),
        ({"trim": False}, False),
        ({"trim_grace_seconds": 3_600.0}, False),
        ({"trim_keep_entries": 5}, False),
        ({"trim_keep_entries": 4}, True),
    ],
)
async def test_grace_and_kept_entries_are_waited_for(
    settings: LogSettings, redis_server: RedisServer, change: dict[str, float], trims: bool
) -> None:
    async with opened(settings.model_copy(update=change)) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        await fill(log, epoch, 9)
        await take_snapshot(log, epoch, store_of(settings), 6)
        await trimmer.step()
    assert retained(redis_server) == list(range(7 if trims else 1, 11))


async def test_the_newest_snapshot_that_is_old_enough_decides(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    """Snapshots that come more often than the grace period must not postpone every trim."""
    async with opened(settings.model_copy(update={"trim_keep_entries": 6})) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        for _ in range(4):
            await fill(log, epoch, 2)
            await take_snapshot(log, epoch, store_of(settings), log.head.seq)
        assert log.head.seq == 12  # snapshots at 2, 5, 8, 11
        await trimmer.step()
        assert retained(redis_server) == list(range(6, 13))
        assert [taken.seq for _, taken in log.snapshots()] == [8, 11]


@pytest.mark.parametrize("lost", ["manifest", "part"])
async def test_an_incomplete_snapshot_trims_nothing(
    settings: LogSettings, redis_server: RedisServer, lost: str
) -> None:
    store = store_of(settings)
    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        await fill(log, epoch, 3)
        await take_snapshot(log, epoch, store, 3)
        ((_, taken),) = log.snapshots()
        part = store.save(b"state at 3")
        lost_file = Path(store.path_of(part if lost == "part" else taken.manifest.digest))
        data = lost_file.read_bytes()
        lost_file.unlink()
        with pytest.raises(PreconditionError, match="not trimmed"):
            await trimmer.step()
        assert (retained(redis_server), archive_of(redis_server)) == ([1, 2, 3, 4], None)
        lost_file.write_bytes(data)
        await trimmer.step()
        assert retained(redis_server) == [4]


async def test_a_snapshot_of_another_history_trims_nothing(
    log: tuple[RedisLog, Trimmer], settings: LogSettings, redis_server: RedisServer
) -> None:
    store, trimmer = log
    epoch = await store.acquire_epoch("test")
    await fill(store, epoch, 3)
    await take_snapshot(store, epoch, store_of(settings), 2)
    ((_, taken),) = store.snapshots()
    await put(store, epoch, snapshot(3, manifest=taken.manifest))  # its digest is not H(3)
    with pytest.raises(PreconditionError, match="another history"):
        await trimmer.step()
    assert (retained(redis_server), archive_of(redis_server)) == ([1, 2, 3, 4, 5], None)


async def test_a_failing_store_leaves_the_log_as_it_was(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    artifacts = Path(settings.witness_path.parent / "artifacts")
    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        await fill(log, epoch, 3)
        await take_snapshot(log, epoch, store_of(settings), 3)
        artifacts.rename(artifacts.with_name("aside"))
        artifacts.write_bytes(b"not a folder")
        with pytest.raises((UnavailableError, PreconditionError)):
            await trimmer.step()
        assert (retained(redis_server), archive_of(redis_server)) == ([1, 2, 3, 4], None)
        await fill(log, epoch, 1)
        artifacts.unlink()
        artifacts.with_name("aside").rename(artifacts)
        await trimmer.step()
        assert retained(redis_server) == [4, 5]


@pytest.mark.parametrize("kind", [b"segment", b"fold", b"index"])
async def test_entries_leave_only_once_their_copy_was_read_back(
    settings: LogSettings, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    """A disk that stores other bytes than it was given, and reports success."""
    write = files._write_synced

    def flip(temporary: Path, path: Path, data: bytes) -> None:
        if b'"kind": "' + kind in data:
            data = data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
        write(temporary, path, data)

    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        await fill(log, epoch, 3)
        await take_snapshot(log, epoch, store_of(settings), 3)
        with monkeypatch.context() as patch:
            patch.setattr(files, "_write_synced", flip)
            with pytest.raises(ArtifactCorruptError):
                await trimmer.step()
        assert (retained(redis_server), archive_of(redis_server)) == ([1, 2, 3, 4], None)
        await trimmer.step()
        assert retained(redis_server) == [4]
        assert len(await all_entries(log)) == 4


async def test_a_damaged_log_is_not_trimmed(
    log: tuple[RedisLog, Trimmer], settings: LogSettings, redis_server: RedisServer
) -> None:
    store, trimmer = log
    epoch = await store.acquire_epoch("test")
    await fill(store, epoch, 4)
    await take_snapshot(store, epoch, store_of(settings), 3)
    redis_server.client.hset(HEAD, "seq", 4)
    with pytest.raises(LogBehindWitnessError):
        await store.state()
    with pytest.raises(LogBehindWitnessError):
        await trimmer.step()
    assert retained(redis_server) == [1, 2, 3, 4, 5]


async def test_a_full_redis_can_be_trimmed(
    log: tuple[RedisLog, Trimmer], settings: LogSettings, redis_server: RedisServer
) -> None:
    store, trimmer = log
    epoch = await store.acquire_epoch("test")
    await fill(store, epoch, 3)
    await take_snapshot(store, epoch, store_of(settings), 3)
    redis_server.client.config_set("maxmemory", 1)
    await trimmer.step()
    assert retained(redis_server) == [4]
    redis_server.client.config_set("maxmemory", 0)
    assert [entry.seq for entry in await all_entries(store)] == [1, 2, 3, 4]


@pytest.mark.parametrize("other_first", [False, True])
async def test_two_log_services_trim_one_log(
    settings: LogSettings, redis_server: RedisServer, other_first: bool
) -> None:
    """One of them wins each time; nothing is lost, and both read all."""
    other = settings.model_copy(update={"witness_path": settings.witness_path.with_name("other")})
    store = store_of(settings)
    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        other = other.model_copy(update={"adopt_unwitnessed": True})
        async with opened(other) as (second, second_trimmer):
            before = []
            for size in (5, 4, 7):
                await fill(log, epoch, size)
                await take_snapshot(log, epoch, store, log.head.seq)
                before = await all_entries(log)
                await second.state()
                steps = [trimmer.step(), second_trimmer.step(), fill(log, epoch, 3)]
                await asyncio.gather(*(reversed(steps) if other_first else steps))
                floor = (await log.state()).floor_seq
                assert retained(redis_server) == list(range(floor, log.head.seq + 1))
                await second.state()
                for each in (log, second):
                    assert (await all_entries(each))[: len(before)] == before
                    assert (await all_entries(each))[-1].position == log.head
            assert floor == before[-1].seq, "all but the last snapshot's own entry left"


@pytest.mark.parametrize("kept", [0, 2])
async def test_a_witness_below_the_floor_is_verified_by_the_archive(
    settings: LogSettings, redis_server: RedisServer, kept: int
) -> None:
    """A log service that was away while another one trimmed the log."""
    settings = settings.model_copy(update={"trim_keep_entries": kept})
    other = settings.model_copy(
        update={"witness_path": settings.witness_path.with_name("other"), "adopt_unwitnessed": True}
    )
    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        await fill(log, epoch, 3)
        async with opened(other) as (away, _):
            assert away.head.seq == 3
        await fill(log, epoch, 6)
        await take_snapshot(log, epoch, store_of(settings), 8)
        await trimmer.step()
        assert retained(redis_server) == [9, 10]
        async with opened(other) as (back, _):
            assert back.head == log.head
            await fill(back, epoch, 1)
            assert await all_entries(back) == await all_entries(log) or log.head.seq < 11


async def test_a_log_trimmed_by_hand_is_not_trimmed_further(
    log: tuple[RedisLog, Trimmer], settings: LogSettings, redis_server: RedisServer
) -> None:
    store, trimmer = log
    epoch = await store.acquire_epoch("test")
    await fill(store, epoch, 5)
    await take_snapshot(store, epoch, store_of(settings), 5)
    redis_server.client.xtrim("{errata}:stream", minid="3-0", approximate=False)
    with pytest.raises(PreconditionError, match="without an archive"):
        await trimmer.step()
    assert retained(redis_server) == [3, 4, 5, 6]
    with pytest.raises(SeqTrimmedError):
        await store.read(2, 1)


async def test_a_trim_of_another_log_is_refused_by_redis(
    log: tuple[RedisLog, Trimmer], redis_server: RedisServer
) -> None:
    """The script is fenced by identity, archive and the digest of the last entry that leaves."""
    store, _ = log
    await fill(store, await store.acquire_epoch("test"), 3)
    backend = store.records.backend
    before = await backend.read(1, 0, 1)
    assert before is not None
    end = (await store.read(2, 1)).entries[0].position
    ref = snapshot(1).manifest
    assert not await backend.trim(before, Position(2, bytes(32)), ref)
    assert not await backend.trim(before, Position(9, end.chain_digest), ref)
    redis_server.client.hset(HEAD, "archive", f"{'cd' * 32}:7")
    assert not await backend.trim(before, end, ref)
    redis_server.client.hdel(HEAD, "archive")
    redis_server.client.hset(HEAD, "log_id", "0" * 32)
    assert not await backend.trim(before, end, ref)
    redis_server.client.hset(HEAD, "log_id", before.log_id)
    assert retained(redis_server) == [1, 2, 3]
    assert await backend.trim(before, end, ref), "the control: it is not refused for nothing"
    assert retained(redis_server) == [3]


async def test_metrics_say_what_is_where(
    log: tuple[RedisLog, Trimmer], settings: LogSettings
) -> None:
    store, trimmer = log
    epoch = await store.acquire_epoch("test")
    await fill(store, epoch, 4)
    await take_snapshot(store, epoch, store_of(settings), 3)
    await trimmer.step()
    feed = Feed(store, page_entries=1, progress_seconds=1.0)
    collector = LogCollector(store, feed, ReplicaTable(1.0), Subscriptions(settings), trimmer)
    found = {s.name: s.value for metric in collector.collect() for s in metric.samples}
    assert found["errata_log_floor_seq"] == 4
    assert found["errata_log_archived_entries"] == 3
    assert found["errata_log_archived_bytes"] == (await index_of(store)).size_bytes > 0
    assert found["errata_log_trim_failures_total"] == 0


async def test_failures_are_counted_and_end_nothing(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    settings = settings.model_copy(update={"trim_interval_seconds": 0.01})
    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        await fill(log, epoch, 3)
        await put(log, epoch, snapshot(2))  # nobody stored its manifest
        running = asyncio.create_task(trimmer.run())
        await eventually(lambda: trimmer.num_failures > 1, "failures")
        await take_snapshot(log, epoch, store_of(settings), 4)
        await eventually(lambda: retained(redis_server) == [5], "the trim")
        trimmer.stop()
        await running
