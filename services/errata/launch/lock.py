"""One box for one data_dir: a lock that the system lets go of when its holders have ended."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from errata.errors import StartupError

_NAME = "lock"


class DataDirLock:
    """Held while a box runs; its children hold it, too, should the box itself be killed."""

    def __init__(self, data_dir: Path, holder: str) -> None:
        """Takes it.

        Args:
            data_dir: must exist.
            holder: what to tell whoever comes second.

        Raises:
            StartupError: another box holds it.
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
        """Lets go of it; others that hold it still do."""
        os.close(self.fileno)


def _holders(path: Path) -> str:
    """Processes of this machine that have the file open, as far as this user may see."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == path.resolve():
                found.add(int(link.parts[2]))
        except OSError:
            continue  # it ended, or is another user's
    return ", ".join(map(str, sorted(found - {os.getpid()})))


def held_by(data_dir: Path) -> str:
    """Who uses a data_dir, and what to do; empty if nobody does."""
    path = data_dir / _NAME
    try:
        fileno = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""  # never used, or not ours to read, which another check says
    try:
        fcntl.flock(fileno, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fileno, 200, 0).decode(errors="replace").strip()
        return (
            f"{data_dir} is in use by {holder or 'another Errata'}; its processes here: "
            f"{_holders(path) or 'not to be seen'}. Two systems cannot share one data_dir: stop "
            "that one (what a killed one left behind, too), or give this one a folder of its own "
            "with --data-dir (ERRATA_DATA_DIR)."
        )
    except OSError:
        return ""  # a file system without locks
    finally:
        os.close(fileno)
    return ""
