"""A replica's snapshots on disk: one is read at the start, others are written on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from errata.errors import ErrataError
from errata.platform.retry import until_available
from errata.replica.applier import Applier
from errata.replica.snapshot import Snapshot, SnapshotFolder

_log = structlog.get_logger(__name__)


class DiskSnapshots:
    """Reads the newest snapshot; writes one at a time, at least `interval` positions apart."""

    def __init__(
        self,
        folder: SnapshotFolder,
        interval: int,
        *,
        current_seq: Callable[[], int],
        take: Callable[[], Callable[[], Snapshot]],
    ) -> None:
        """Reads and writes nothing yet.

        Args:
            folder: gets the snapshots.
            interval: positions from one snapshot to the next.
            current_seq: the replica's position.
            take: fixes the state at that position; what it returns copies it, on any thread.
        """
        self._folder = folder
        self._interval = interval
        self._current_seq = current_seq
        self._take = take
        self._writing: asyncio.Task[None] | None = None
        self._last_seq = 0  # of the snapshot that was read or begun last

    @property
    def is_used(self) -> bool:
        """Whether a snapshot was restored or begun."""
        return self._last_seq > 0

    async def restore(
        self, new_applier: Callable[[str], Applier]
    ) -> tuple[Applier, Snapshot] | None:
        """The newest snapshot, and an applier that holds its state; None if none can be used.

        Args:
            new_applier: makes an empty one, for the base model of this digest.
        """
        snapshot = await asyncio.to_thread(self._folder.newest)
        if snapshot is None or not snapshot.fold.lanes:
            return None
        fold, seq = snapshot.fold, snapshot.position.seq
        applier = new_applier(fold.lanes[0][0].base_model_digest)
        try:
            await until_available(lambda: applier.restore(fold, seq), "artifacts")
        except ErrataError as error:
            _log.warning("a snapshot was left aside", seq=seq, reason=error.message)
            return None
        self._last_seq = seq
        return applier, snapshot

    def write_if_due(self) -> None:
        """Starts to write a snapshot, unless it is too early or one is being written."""
        seq = self._current_seq()
        if self._writing is not None or seq < self._last_seq + self._interval:
            return
        self._last_seq = seq
        self._writing = asyncio.create_task(self._write(self._take()))

    async def close(self) -> None:
        """Returns once no snapshot is being written."""
        while self._writing is not None:
            await self._writing

    async def _write(self, copy: Callable[[], Snapshot]) -> None:
        try:
            await asyncio.to_thread(lambda: self._folder.save(copy()))
        except OSError as error:
            path = str(self._folder.path)
            _log.warning("no snapshot could be written", folder=path, reason=str(error))
        finally:
            self._writing = None
        self.write_if_due()  # entries that came meanwhile may be the last ones for long
