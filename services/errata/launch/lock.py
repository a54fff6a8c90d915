"""One system per data_dir: a lock that the kernel releases when its holders have ended."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from errata.errors import StartupError

_NAME = "lock"


class DataDirLock:
    """Held while a box runs; its children also hold it, in case the box is killed."""

    def __init__(self, data_dir: Path, holder: str) -> None:
        """Takes the lock.

        Args:
            data_dir: must exist.
            holder: name of this box, for the error message of a second one.

        Raises:
            StartupError: another box holds the lock.
        """
        path = data_dir / _NAME
        self.fileno = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self.fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.fileno)
            raise StartupError(held_by(data_dir) or f"{path}: {error.strerror}.") from error
        os.ftruncate(self.fileno, 0)
        os.pwrite(self.fileno, f"{holder}\n".encode(), 0)

    def release(self) -> None:
        """Releases the lock; children that hold it keep it."""
        os.close(self.fileno)


def _holders(path: Path) -> str:
    """Processes on this machine that have the file open, as far as this user can see them."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == path.resolve():
                found.add(int(link.parts[2]))
        except OSError:
            continue  # the process ended, or belongs to another user
    return ", ".join(map(str, sorted(found - {os.getpid()})))


def held_by(data_dir: Path) -> str:
    """Says which system uses a data_dir, and what to do; empty if none does."""
    path = data_dir / _NAME
    try:
        fileno = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""  # never used, or not readable, which another check reports
    try:
        fcntl.flock(fileno, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fileno, 200, 0).decode(errors="replace").strip()
        return (
            f"{data_dir} is in use by {holder or 'another Errata'}; its processes here: "
            f"{_holders(path) or 'not visible'}. Two systems cannot share one data_dir: stop that "
            "system, including processes that a killed one left behind, or give this system "
            "another folder with --data-dir (ERRATA_DATA_DIR)."
        )
    except OSError:
        return ""  # a file system without locks
    finally:
        os.close(fileno)
    return ""
