"""Writes files of any fsspec file system so that a name never stands for an incomplete file."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from errata.platform.failpoints import failpoint


def write_file(fs: Any, path: str, data: bytes) -> None:
    """Writes a file under another name and renames it; on a local disk it is synced before.

    Args:
        fs: an fsspec file system.
        path: of the file; a file that is there is replaced.
        data: its content.

    Raises:
        Exception: the file system's own errors, an OSError for a local one; no file of this name
            was added or changed.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    if isinstance(fs, LocalFileSystem):
        _write_synced(Path(temporary), Path(path), data)
        return
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(temporary, data)
    fs.mv(temporary, path)


def _write_synced(temporary: Path, path: Path, data: bytes) -> None:
    """Writes, syncs and renames; then syncs the folders, whose entries a crash could lose, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        failpoint("artifacts.before_write")
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            failpoint("artifacts.before_sync")
            os.fsync(file.fileno())
        failpoint("artifacts.before_rename")
        temporary.replace(path)
        failpoint("artifacts.after_rename")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    for folder in (path.parent, path.parent.parent):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
