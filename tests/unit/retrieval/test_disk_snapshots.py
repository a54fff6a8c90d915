"""Snapshots are written one at a time, and none that is due is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from errata.log.chain import Position
from errata.log.fold import LogFold
from errata.log.signing.trust import TrustState
from errata.replica.snapshot import CapturedState, Snapshot, SnapshotFolder
from errata.retrieval.disk_snapshots import DiskSnapshots
from tests.waiting import PATIENCE


class Replica:
    """A position that moves, and a copy that can be held up."""

    def __init__(self, folder: Path) -> None:
        self.seq = 0
        self.may_copy = threading.Event()
        self.taken: list[int] = []
        self.snapshots = DiskSnapshots(
            SnapshotFolder(folder), 3, current_seq=lambda: self.seq, take=self._take
        )

    def move(self, seq: int) -> None:
        self.seq = seq
        self.snapshots.write_if_due()

    def _take(self) -> Callable[[], Snapshot]:
        self.taken.append(self.seq)
        captured = CapturedState((), (), {}, {}, (), "", TrustState())
        snapshot = Snapshot("log", Position(self.seq, bytes(32)), captured, LogFold())

        def copy() -> Snapshot:
            assert self.may_copy.wait(PATIENCE)
            return snapshot

        return copy


async def test_one_that_falls_due_during_a_write_is_written_after_it(tmp_path: Path) -> None:
    replica = Replica(tmp_path)
    for seq in (2, 3, 4, 6, 7):
        replica.move(seq)
    assert replica.taken == [3], "one at a time"
    replica.may_copy.set()
    await replica.snapshots.close()
    assert replica.taken == [3, 7]
    newest = SnapshotFolder(tmp_path).newest()
    assert newest is not None
    assert newest.position.seq == 7


async def test_a_folder_that_cannot_be_written_does_not_stop_the_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: SnapshotFolder, snapshot: Snapshot) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SnapshotFolder, "save", refuse)
    replica = Replica(tmp_path)
    replica.may_copy.set()
    replica.move(3)
    await replica.snapshots.close()
    replica.move(6)
    await replica.snapshots.close()
    assert replica.taken == [3, 6]
