"""`errata artifacts gc` removes what nothing names, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from errata.artifacts import ArtifactStore
from errata.cli import app
from errata.errors import (
    InvalidRequestError,
    LogBehindWitnessError,
    PreconditionError,
    StartupError,
)
from errata.launch.garbage import Collection, age_of, collected
from errata.log.entries import ArtifactRef
from errata.log.store import RedisLog
from errata.platform.settings import LogSettings, load_settings
from tests.integration.log.entries import commit, lane, request
from tests.integration.log.harness import RedisServer, smuggle
from tests.integration.log.trimming import (
    STREAM,
    all_entries,
    archive_of,
    index_of,
    opened,
    put,
    store_of,
    take_snapshot,
    trimming,
)

pytestmark = pytest.mark.promise("P2")

DAY = timedelta(days=1)


@pytest.fixture
def settings(settings: LogSettings) -> LogSettings:
    return trimming(settings)


def make_old(store: ArtifactStore) -> None:
    then = time.time() - 2 * DAY.total_seconds()
    for file in store.files():
        os.utime(file.path, (then, then))


def digests(store: ArtifactStore) -> set[str]:
    return {file.digest for file in store.files()}


async def commit_edit(log: RedisLog, epoch: int, store: ArtifactStore, data: bytes) -> str:
    """Requests an edit and commits it with this artifact, whose digest it returns."""
    ref = ArtifactRef(store.save(data), len(data))
    seq = await put(log, epoch, request())
    await put(log, epoch, commit(f"edits/{seq}-0", artifact=ref))
    return ref.digest


def confirmed(_num_files: int) -> None:
    return None


def stopped(_num_files: int) -> None:
    raise KeyboardInterrupt


async def run(
    settings: LogSettings,
    *,
    drop_before: int | None = None,
    dry_run: bool = False,
    confirm: Callable[[int], None] = confirmed,
) -> Collection:
    artifacts = {"url": str(settings.witness_path.parent / "artifacts")}
    flags = {
        "log": {"redis_url": settings.redis_url, "witness_path": settings.witness_path},
        "artifacts": artifacts,
    }
    return await collected(load_settings(flags), DAY, drop_before, confirm, dry_run=dry_run)


async def grown(settings: LogSettings) -> tuple[str, str, str]:
    """A log: edits committed before and after a trim; digests of their artifacts, and of a part.

    1 lane, 2 and 3 the first edit, 4 a snapshot at 3 (then trimmed), 5 and 6 the second edit.
    """
    store = store_of(settings)
    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        await put(log, epoch, lane())
        first = await commit_edit(log, epoch, store, b"first")
        await take_snapshot(log, epoch, store, 3)
        await trimmer.step()
        second = await commit_edit(log, epoch, store, b"second")
    return first, second, store.save(b"state at 3")


async def test_only_what_nothing_names_and_is_old_is_removed(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    named, store = await grown(settings), store_of(settings)
    before = digests(store)
    orphan = store.save(b"nobody's")
    folder = Path(store.path_of(orphan)).parent
    left = folder / f"{orphan}.safetensors.{'0' * 32}.tmp"
    left.write_bytes(b"half a file")
    foreign = folder / "notes.txt"
    foreign.write_text("not of the store")
    make_old(store)
    young = store.save(b"its entry is on its way")

    dry = await run(settings, dry_run=True)
    assert digests(store) >= {orphan, young}
    found = await run(settings)
    assert (found.removed, found.freed_bytes, found.young) == (2, 8 + 11, 1)
    assert (dry.removed, dry.freed_bytes) == (found.removed, found.freed_bytes)
    assert (found.kept, found.head_seq) == (len(before), 6)
    assert digests(store) == {*before, young}
    assert foreign.exists()
    assert not left.exists()
    assert set(named) < before
    async with opened(settings) as (log, _):
        index, ref = await index_of(log), archive_of(redis_server)
        assert ref is not None
        assert {ref.digest, *(each.digest for each in index.artifacts())} < before
        assert len(await all_entries(log)) == 6


async def test_files_of_an_older_archive_go(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    await grown(settings)
    store, old = store_of(settings), archive_of(redis_server)
    async with opened(settings) as (log, trimmer):
        epoch = await log.acquire_epoch("test")
        await take_snapshot(log, epoch, store, 6)
        await trimmer.step()
        index = await index_of(log)
    assert old is not None
    make_old(store)
    found = await run(settings)
    assert found.removed == 3, "the old index, its fold, and the segment that was filled up"
    assert old.digest not in digests(store)
    assert {ref.digest for ref in index.artifacts()} < digests(store)
    async with opened(settings) as (log, _):
        assert len(await all_entries(log)) == 7


async def test_an_old_file_that_is_stored_again_is_young(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    """A writer that fits the same bytes again is about to name them."""
    await grown(settings)
    store = store_of(settings)
    digest = store.save(b"again")
    make_old(store)
    assert (await run(settings, dry_run=True)).removed == 1
    assert store.save(b"again") == digest
    assert (await run(settings)).removed == 0
    assert digest in digests(store)


async def test_artifacts_of_archived_entries_go_only_by_word(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    first, second, part = await grown(settings)
    store = store_of(settings)
    make_old(store)
    assert (await run(settings)).removed == 0
    with pytest.raises(KeyboardInterrupt):
        await run(settings, drop_before=4, confirm=stopped)
    assert first in digests(store)
    asked: list[int] = []
    found = await run(settings, drop_before=4, confirm=asked.append)
    assert (found.removed, found.lost, asked) == (1, 1, [1])
    assert first not in digests(store)
    assert {second, part} < digests(store)
    async with opened(settings) as (log, _):  # entries are all there; appends go on
        assert len(await all_entries(log)) == 6
        await put(log, await log.acquire_epoch("test"), request())


@pytest.mark.parametrize("before", [5, 6])
async def test_artifacts_that_readers_need_are_not_dropped(
    settings: LogSettings, redis_server: RedisServer, before: int
) -> None:
    await grown(settings)
    make_old(store_of(settings))
    held = digests(store_of(settings))
    with pytest.raises(PreconditionError, match="Name at most entry 4"):
        await run(settings, drop_before=before)
    assert digests(store_of(settings)) == held


async def test_without_its_last_snapshot_nothing_is_dropped(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    _, _, part = await grown(settings)
    store = store_of(settings)
    make_old(store)
    Path(store.path_of(part)).unlink()
    held = digests(store)
    with pytest.raises(PreconditionError, match="missing"):
        await run(settings, drop_before=4)
    manifest = next(d for d in held if b'"parts"' in store.load(d))
    Path(store.path_of(manifest)).unlink()
    with pytest.raises(PreconditionError, match="missing"):
        await run(settings)
    assert digests(store) == held - {manifest}


async def test_a_log_that_cannot_be_read_whole_removes_nothing(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    await grown(settings)
    store = store_of(settings)
    store.save(b"nobody's")
    make_old(store)
    held = digests(store)
    # An unknown field 100: an entry of a kind that only a newer version knows.
    smuggle(redis_server, b"\xa2\x06\x00")
    with pytest.raises(PreconditionError):
        await run(settings)
    redis_server.client.xdel(STREAM, "7-0")
    redis_server.client.hset("{errata}:head", mapping={"seq": 4})
    with pytest.raises(LogBehindWitnessError, match="Restore Redis first"):
        await run(settings)
    redis_server.client.flushall()
    with pytest.raises(StartupError, match="holds no log"):
        await run(settings)
    other = settings.model_copy(update={"witness_path": settings.witness_path.with_name("other")})
    async with opened(other):
        with pytest.raises(PreconditionError, match="the log is empty"):
            await run(settings)
    assert digests(store) == held


@pytest.mark.parametrize("text", ["0h", "59m", "2", "1w", "-3d", ""])
def test_an_age_that_is_none_or_too_low_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="at least 1h"):
        age_of(text)


def test_ages_have_a_unit() -> None:
    assert [age_of(text) for text in ("60m", "36h", "2d")] == [
        timedelta(hours=1),
        timedelta(hours=36),
        timedelta(days=2),
    ]


async def test_the_command_prints_json(settings: LogSettings, redis_server: RedisServer) -> None:
    await grown(settings)
    store = store_of(settings)
    store.save(b"nobody's")
    make_old(store)
    folder = str(settings.witness_path.parent / "artifacts")
    command = ["artifacts", "gc", "--redis-url", settings.redis_url, "--artifacts", folder]
    for flags, left in ((["--dry-run"], True), ([], False)):
        result = await asyncio.to_thread(CliRunner().invoke, app, [*command, "--json", *flags])
        assert result.exit_code == 0, result.output
        shown = json.loads(result.stdout[result.stdout.index("{") :])
        assert (shown["removed"], shown["freed_bytes"], shown["dry_run"]) == (1, 8, left)
        assert any(file.size_bytes == 8 for file in store.files()) == left
