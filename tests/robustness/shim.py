"""The preloaded disk that forgets what was not synced; see `shim.c`."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("shim.c")
_CONTROL = struct.Struct("=qqqq")  # clock_ns, delay_us, eio, num_syncs


def compiled(folder: Path) -> Path:
    """The shim as a library; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc, clang): unsynced data cannot be dropped")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", str(_SOURCE)]
    subprocess.run([*command, "-o", str(library), "-ldl"], check=True)
    return library


class Shim:
    """The shim's library, records and controls; each process of a rig has its own of the latter."""

    def __init__(self, folder: Path, *, seed: int, delay_us: int = 0, tears: bool = True) -> None:
        """Compiles it.

        Args:
            folder: for library, records and controls.
            seed: of what is torn.
            delay_us: how much slower a sync is, so that kills meet unsynced data.
            tears: keep a random part of an unsynced write, instead of nothing.
        """
        self._library = compiled(folder)
        self._folder = folder
        self._random = random.Random(seed)
        self._delay_us = delay_us
        self._tears = tears
        self.num_dropped = 0  # kills that lost unsynced bytes

    def environment(self, name: str = "all") -> dict[str, str]:
        """Variables of a process that shall have the shim."""
        own = self._folder / name
        if not own.exists():
            own.mkdir()
            self.control(name)
        return {"LD_PRELOAD": str(self._library), "ROBUSTNESS_SHIM": str(own)}

    def control(self, name: str = "all", *, clock_seconds: float = 0.0, eio: bool = False) -> None:
        """Sets what happens in the processes of that name from now on."""
        data = _CONTROL.pack(int(clock_seconds * 1e9), self._delay_us, int(eio), 0)
        path = self._folder / name / "control"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        os.pwrite(descriptor, data, 0)
        os.close(descriptor)

    def num_syncs(self, name: str = "all") -> int:
        """Syncs since `control` was called last."""
        data = (self._folder / name / "control").read_bytes()
        return int(_CONTROL.unpack(data)[3])

    def lose_unsynced(self, process: str, folder: Path) -> None:
        """Brings the files of a dead process back to what it synced."""
        lost = sum(self._lose(path) for path in list(_files_of(process, folder)))
        self.num_dropped += lost > 0

    def _lose(self, path: Path) -> bool:
        stat = path.stat()
        for own in self._folder.iterdir():
            kept = own / str(stat.st_ino)
            if kept.is_file():
                break
        else:
            os.truncate(path, 0)
            return stat.st_size > 0
        head, _, content = kept.read_bytes().partition(b"\n")
        size = int(head[1:])
        if head[:1] == b"S":
            if stat.st_size > size:
                os.truncate(path, self._torn(path, size, stat.st_size))
            return stat.st_size > size
        now = path.read_bytes()
        if now == content:
            return False
        if not self._tears:
            path.write_bytes(content)
        else:
            path.write_bytes(self._mixed(content, now))
        return True

    def _torn(self, path: Path, synced: int, written: int) -> int:
        return self._random.randint(synced, written) if self._tears else synced

    def _mixed(self, synced: bytes, written: bytes) -> bytes:
        """The synced bytes, with a first part of those that were written over or behind them."""
        differing = [
            i
            for i in range(max(len(synced), len(written)))
            if synced[i : i + 1] != written[i : i + 1]
        ]
        keep = self._random.choice(differing)
        return written[:keep] + synced[keep:]


def _files_of(process: str, folder: Path) -> Iterator[Path]:
    """What a process of the rig writes and needs again."""
    if process == "redis":
        yield from (path for path in folder.glob("redis/**/*") if path.is_file())
    elif process == "log":
        yield from folder.glob("witness")
        yield from folder.glob("audit/log.jsonl")
    elif process == "writer":
        yield from (path for path in folder.glob("artifacts/**/*") if path.is_file())
        yield from folder.glob("audit/writer.jsonl")
