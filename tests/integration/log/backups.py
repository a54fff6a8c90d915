"""Backups and restores of a log, as tests make them and look into them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from errata.artifacts import ArtifactStore
from errata.launch import repair
from errata.launch.backup.create import Backup, back_up
from errata.launch.backup.folder import BackupFolder
from errata.launch.backup.manifest import Manifest, read_manifest
from errata.launch.backup.restore import Restored, restore
from errata.platform.settings import load_settings
from tests.integration.log import entries as made
from tests.integration.log.harness import RunningLog, connected

MAX_BYTES = 1_000_000


def place(folder: Path | str) -> BackupFolder:
    return BackupFolder(str(folder), max_artifact_bytes=MAX_BYTES)


async def backed_up(log: RunningLog, folder: Path | str, *, thorough: bool = False) -> Backup:
    return await back_up(
        log.address, place(folder), max_artifact_bytes=MAX_BYTES, thorough=thorough
    )


async def restored(folder: Path, data_dir: Path, at: int | None = None) -> Restored:
    settings = load_settings({"data_dir": data_dir})
    return await asyncio.to_thread(restore, place(folder), settings, at)


@asynccontextmanager
async def log_of(data_dir: Path) -> AsyncIterator[RunningLog]:
    """The log service of a restored deployment, as `errata up` would start it."""
    settings = load_settings({"data_dir": data_dir})
    with repair.running_log(settings, data_dir, "") as address:
        async with connected(address) as log:
            yield log


async def with_commit(log: RunningLog, store: ArtifactStore) -> int:
    """A lane, two edits, a commit of one that names an artifact; the epoch."""
    epoch = await log.acquire()
    await made.append(log, epoch, made.lane())
    seq = await made.append(log, epoch, made.request(num_edits=2))
    store.save(made.BYTES)
    await made.append(log, epoch, made.commit(f"edits/{seq}-0"))
    return epoch


def manifest_of(folder: Path) -> Manifest:
    return read_manifest((folder / "manifest.json").read_bytes(), str(folder))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
