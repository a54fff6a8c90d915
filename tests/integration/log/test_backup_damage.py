"""Damaged backups, and backups of a newer format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from errata.artifacts import ArtifactStore
from errata.errors import DataLossError, ErrataError, NotFoundError, PreconditionError
from errata.launch.backup.manifest import Manifest
from tests.integration.log import entries as made
from tests.integration.log.backups import backed_up, files_of, manifest_of, restored, with_commit
from tests.integration.log.harness import RunningLog

Damage = Callable[[Path, Manifest], None]


def _segment(folder: Path, manifest: Manifest) -> Path:
    return folder / "segments" / f"{manifest.segments[0].digest}.segment"


def _artifact(folder: Path) -> Path:
    digest = made.REF.digest
    return folder / "artifacts" / digest[:2] / f"{digest}.safetensors"


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _newer(path: Path) -> None:
    from errata.launch.backup import manifest as form

    said = json.loads(path.read_bytes())
    del said["sha256"]
    said |= {"format": form.FORMAT + 1, "more": True}
    path.write_text(json.dumps({"sha256": form._digest(said), **said}))


DAMAGES: dict[str, tuple[Damage, type[ErrataError], str]] = {
    "no manifest": (lambda f, m: (f / "manifest.json").unlink(), NotFoundError, "holds no backup"),
    "manifest cut": (lambda f, m: _cut(f / "manifest.json"), DataLossError, "manifest"),
    "manifest flipped": (lambda f, m: _flip(f / "manifest.json"), DataLossError, "manifest"),
    "newer format": (lambda f, m: _newer(f / "manifest.json"), PreconditionError, "upgrade"),
    "no segment": (lambda f, m: _segment(f, m).unlink(), DataLossError, "no such file"),
    "segment cut": (lambda f, m: _cut(_segment(f, m)), DataLossError, "entries 1 to 3"),
    "segment flipped": (lambda f, m: _flip(_segment(f, m)), DataLossError, "entries 1 to 3"),
    "no artifact": (lambda f, m: _artifact(f).unlink(), DataLossError, made.REF.digest),
    "artifact cut": (lambda f, m: _cut(_artifact(f)), DataLossError, made.REF.digest),
    "artifact flipped": (lambda f, m: _flip(_artifact(f)), DataLossError, made.REF.digest),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_backup_is_refused_and_nothing_is_made(
    log: RunningLog, store: ArtifactStore, tmp_path: Path, damage: str
) -> None:
    await with_commit(log, store)
    folder = tmp_path / "backup"
    await backed_up(log, folder)
    spoil, kind, says = DAMAGES[damage]
    spoil(folder, manifest_of(folder))
    before = files_of(folder)
    with pytest.raises(kind, match=says) as caught:
        await restored(folder, tmp_path / "new")
    assert type(caught.value) is kind
    assert not (tmp_path / "new").exists()
    assert files_of(folder) == before


@pytest.mark.parametrize("damage", [x for x in DAMAGES if "segment" in x or "artifact" in x])
async def test_a_thorough_backup_mends_damaged_files(
    log: RunningLog, store: ArtifactStore, tmp_path: Path, damage: str
) -> None:
    await with_commit(log, store)
    folder = tmp_path / "backup"
    await backed_up(log, folder)
    DAMAGES[damage][0](folder, manifest_of(folder))
    await backed_up(log, folder, thorough=True)
    await restored(folder, tmp_path / "new")


async def test_a_backup_of_a_newer_format_or_damaged_is_not_continued(
    log: RunningLog, tmp_path: Path
) -> None:
    await log.acquire()
    folder = tmp_path / "backup"
    await backed_up(log, folder)
    _newer(folder / "manifest.json")
    before = files_of(folder)
    with pytest.raises(PreconditionError, match="upgrade"):
        await backed_up(log, folder)
    assert files_of(folder) == before
