"""Writes files of any fsspec file system so that a name never stands for an incomplete file."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from errata.errors import StartupError
from errata.platform.failpoints import failpoint


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of any fsspec file system.

    Attributes:
        fs: the file system.
        root: the folder's path in it, without a slash at its end.
        errors: what it raises when it fails; object stores have exceptions of their own.
    """

    fs: Any
    root: str
    errors: type[Exception]


def open_place(url: str, what: str) -> Place:
    """Opens a folder or an fsspec URL; creates nothing.

    Args:
        url: of it.
        what: it is, for the message: `the artifact store`.

    Raises:
        StartupError: the protocol is unknown to fsspec, or its package is not installed.
    """
    try:
        fs, root = url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise StartupError(
            f"{what} {url!r} cannot be opened: {error}. Give a directory or an fsspec URL whose "
            "package is installed."
        ) from error
    errors = OSError if isinstance(fs, LocalFileSystem) else Exception
    return Place(fs, str(root).rstrip("/"), errors)


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
