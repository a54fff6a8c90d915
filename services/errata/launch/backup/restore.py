"""`errata restore`: makes a new deployment from a backup, up to its head or an earlier entry."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from errata.artifacts.store import ArtifactStore
from errata.errors import PreconditionError, StartupError
from errata.launch.backup.check import Checked, check, entries_of
from errata.launch.backup.folder import BackupFolder
from errata.launch.box import Box, free_addresses
from errata.launch.lock import held_by
from errata.log.restore import restoring
from errata.log.witness import read_witness
from errata.platform.settings import Settings


@dataclass(frozen=True, slots=True)
class Restored:
    """The new log.

    Attributes:
        data_dir: of the new deployment.
        log_id: its identity.
        from_log_id: the log that was backed up.
        head_seq: its last entry.
        num_artifacts: in its artifact store, as far as the log names them.
        trusted_keys: ids of the keys of which its writer needs one; none if commits are not signed.
        seconds: that it took, with the check of the backup.
    """

    data_dir: str
    log_id: str
    from_log_id: str
    head_seq: int
    num_artifacts: int
    trusted_keys: tuple[str, ...]
    seconds: float


def restore(folder: BackupFolder, settings: Settings, at: int | None) -> Restored:
    """Restores a backup into an empty deployment; all of it is verified before anything is written.

    Args:
        folder: the backup.
        settings: name the new deployment: its data_dir and, if they are elsewhere, its Redis and
            its artifact store.
        at: the last entry to restore; None for all.

    Raises:
        NotFoundError, InvalidRequestError, DataLossError, PreconditionError: the backup cannot be
            used up to there, as `check.check`, or the deployment holds a log; nothing was changed.
        StartupError: a running system uses the data_dir, or a place cannot be used.
        LogUnavailableError, LimitExceededError: Redis failed; what was written is removed again.
    """
    begun = time.monotonic()
    if problem := held_by(settings.data_dir):
        raise StartupError(problem)
    _check_empty(settings)
    checked = asyncio.run(check(folder, at))
    with _storage(settings) as started:
        log_id = asyncio.run(_fill(folder, checked, started))
    return Restored(
        data_dir=str(settings.data_dir),
        log_id=log_id,
        from_log_id=checked.manifest.log_id,
        head_seq=checked.end.seq,
        num_artifacts=len(checked.artifacts),
        trusted_keys=checked.trusted_keys,
        seconds=time.monotonic() - begun,
    )


def _check_empty(settings: Settings) -> None:
    """Checks that the deployment is empty, as far as files show it."""
    folder = settings.data_dir
    if read_witness(settings.log.witness_path) is not None:
        found = str(settings.log.witness_path)
    else:
        found = next((str(path) for path in _own(settings) if _has_content(path)), "")
    if found:
        raise PreconditionError(
            f"a log can be restored only into an empty deployment, and {folder} holds one "
            f"({found}). Nothing was changed. Name another folder with --data-dir."
        )


def _own(settings: Settings) -> list[Path]:
    """What a restore makes in the data_dir."""
    found = [settings.data_dir / "redis"]
    return found if settings.artifacts.url else [*found, settings.data_dir / "artifacts"]


def _has_content(path: Path) -> bool:
    try:
        return any(path.iterdir())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StartupError(
            f"{path} cannot be read: {error.strerror}. Name another folder with --data-dir."
        ) from error


@contextmanager
def _storage(settings: Settings) -> Iterator[Settings]:
    """Settings of the new deployment while its Redis runs; a failure leaves nothing of it."""
    folder, existed = settings.data_dir, settings.data_dir.exists()
    has_own_redis = "redis_url" not in settings.log.model_fields_set
    box = Box(
        {"data_dir": folder, **free_addresses()},
        redis_url=None if has_own_redis else settings.log.redis_url,
    )
    made: list[Path] = []

    def when_locked() -> None:
        _check_empty(settings)  # again: another system may have used it meanwhile
        made.extend(_own(settings) if existed else [folder])

    try:
        try:
            box.start_storage(when_locked)
            yield box.settings
        finally:
            box.stop()
    except BaseException:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        raise


async def _fill(folder: BackupFolder, checked: Checked, settings: Settings) -> str:
    """Writes artifacts, entries and witness; the new log's identity."""
    manifest = checked.manifest
    max_bytes = settings.artifacts.max_bytes
    store = ArtifactStore(settings.artifacts_url, max_bytes=max_bytes)
    async with restoring(settings.log) as log:
        await log.announce(checked.end, manifest.epoch)
        for ref in checked.artifacts:
            await store.put(await folder.artifacts.get(ref.digest, ref.size_bytes))
        for entries in entries_of(folder, manifest, checked.end.seq):
            await log.add(entries)
        await log.finish()
    return log.log_id
