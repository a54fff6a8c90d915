"""Memory of this process, as Linux counts it."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

from errata.errors import InvalidRequestError

_PROC = Path("/proc/self")


def check_is_measurable() -> None:
    """Checks that memory can be measured here.

    Raises:
        InvalidRequestError: it is not Linux.
    """
    if not (_PROC / "clear_refs").exists():
        raise InvalidRequestError("--measure reads /proc, which only Linux has.", field="measure")


def resident_bytes() -> int:
    """Pages in memory, after everything unused is given back.

    Weights are read from a mapped file, whose pages other processes may share: they count, too.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _fields()["VmRSS"]


def reset_highest() -> None:
    """Lets `highest_bytes` count from now on."""
    (_PROC / "clear_refs").write_text("5")


def highest_bytes() -> int:
    """The most pages that were in memory at once since the last reset."""
    return _fields()["VmHWM"]


def _fields() -> dict[str, int]:
    """The fields in kB of this process's status, in bytes."""
    found = {}
    for line in (_PROC / "status").read_text().splitlines():
        key, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found[key] = 1024 * int(words[0])
    return found
