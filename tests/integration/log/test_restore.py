"""Restores that are refused, fail or are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from errata.artifacts import ArtifactStore
from errata.errors import (
    InvalidRequestError,
    LogBehindWitnessError,
    PreconditionError,
    StartupError,
)
from errata.launch.lock import DataDirLock
from errata.log.chain import ChainedEntry, Position
from errata.log.restore import restoring
from errata.log.store import RedisLog
from errata.platform.settings import LogSettings
from tests.integration.log.backups import backed_up, files_of, log_of, restored, with_commit
from tests.integration.log.harness import RedisServer, RunningLog, log_settings, running_log
from tests.waiting import PATIENCE


@pytest.mark.parametrize("at", [0, -1, 4])
async def test_a_position_that_the_backup_lacks_is_refused(
    log: RunningLog, store: ArtifactStore, tmp_path: Path, at: int
) -> None:
    await with_commit(log, store)
    await backed_up(log, tmp_path / "backup")
    with pytest.raises(InvalidRequestError, match="holds the entries 1 to 3") as caught:
        await restored(tmp_path / "backup", tmp_path / "new", at)
    assert caught.value.field == "at"
    assert not (tmp_path / "new").exists()


async def test_a_restore_into_a_deployment_with_a_log_is_refused(
    log: RunningLog, store: ArtifactStore, tmp_path: Path
) -> None:
    await with_commit(log, store)
    await backed_up(log, tmp_path / "backup")
    new = tmp_path / "new"
    new.mkdir()
    (new / "signing-key.pem").write_text("a key that the operator put there")
    first = await restored(tmp_path / "backup", new)
    before = files_of(new)
    with pytest.raises(PreconditionError, match="only into an empty deployment"):
        await restored(tmp_path / "backup", new)
    assert files_of(new) == before
    (new / "witness").unlink()
    with pytest.raises(PreconditionError, match="redis"):
        await restored(tmp_path / "backup", new)
    (new / "witness").write_bytes(before["witness"])
    async with log_of(new) as running:
        assert (await running.head()).log_id == first.log_id


async def test_a_restore_into_a_folder_in_use_is_refused(
    log: RunningLog, store: ArtifactStore, tmp_path: Path
) -> None:
    await with_commit(log, store)
    await backed_up(log, tmp_path / "backup")
    new = tmp_path / "new"
    new.mkdir()
    lock = DataDirLock(new, "another system")
    try:
        with pytest.raises(StartupError, match="in use by another system"):
            await restored(tmp_path / "backup", new)
        assert {path.name for path in new.iterdir()} == {"lock"}
    finally:
        lock.release()
    await restored(tmp_path / "backup", new)


async def some_entries(settings: LogSettings) -> list[ChainedEntry]:
    async with running_log(settings) as log:
        epoch = await log.acquire()
        for number in range(4):
            await log.append(epoch, comment=str(number))
        return await log.entries()


@pytest.fixture
def empty(redis_server: RedisServer, tmp_path: Path) -> LogSettings:
    """Settings of an empty log in the same Redis."""
    return log_settings(redis_server, tmp_path / "new" / "witness", key_prefix="new")


async def test_a_failed_restore_leaves_redis_and_witness_empty(
    redis_server: RedisServer, settings: LogSettings, empty: LogSettings
) -> None:
    entries = await some_entries(settings)
    before = sorted(redis_server.client.keys())
    changed = ChainedEntry(2, entries[1].payload + b"\0", entries[1].chain_digest)

    async def fill() -> None:
        async with restoring(empty) as log:
            await log.announce(Position(4, entries[3].chain_digest), 1)
            await log.add(entries[:1])
            await log.add([changed])

    with pytest.raises(LogBehindWitnessError):
        await fill()
    assert sorted(redis_server.client.keys()) == before
    assert not empty.witness_path.exists()
    async with running_log(empty) as new:
        assert (await new.head()).head_seq == 0


async def test_a_restore_into_a_redis_with_a_log_is_refused(
    redis_server: RedisServer, settings: LogSettings, tmp_path: Path
) -> None:
    await some_entries(settings)
    before = redis_server.client.xrange("{errata}:stream")
    other = log_settings(redis_server, tmp_path / "other" / "witness")
    with pytest.raises(PreconditionError, match="holds a log"):
        async with restoring(other):
            pass
    assert redis_server.client.xrange("{errata}:stream") == before
    assert not other.witness_path.exists()
    with pytest.raises(PreconditionError, match="is of log"):
        async with restoring(settings):
            pass
    async with running_log(settings) as log:
        assert (await log.head()).head_seq == 4


_KILLED = """
import asyncio, os, sys
from errata.log.chain import ChainedEntry, Position
from errata.log.restore import restoring
from errata.platform.settings import LogSettings

async def main():
    entries = [ChainedEntry(n, bytes.fromhex(p), bytes.fromhex(d)) for n, p, d in eval(sys.argv[2])]
    async with restoring(LogSettings.model_validate_json(sys.argv[1])) as log:
        await log.announce(Position(len(entries), entries[-1].chain_digest), 1)
        await log.add(entries[:2])
        os._exit(9)

asyncio.run(main())
"""


async def test_a_killed_restore_leaves_a_log_that_no_service_opens(
    redis_server: RedisServer, settings: LogSettings, empty: LogSettings
) -> None:
    entries = await some_entries(settings)
    rows = [(entry.seq, entry.payload.hex(), entry.chain_digest.hex()) for entry in entries]
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, empty.model_dump_json(), repr(rows)], timeout=PATIENCE
    )
    assert killed.returncode == 9
    with pytest.raises(LogBehindWitnessError, match="holds no log"):
        await RedisLog.open(empty)
    empty.witness_path.unlink()
    async with restoring(empty) as log:  # what waits in Redis is removed
        await log.announce(Position(4, entries[3].chain_digest), 1)
        await log.add(entries)
        await log.finish()
    async with running_log(empty) as new:
        assert await new.entries() == entries
