"""A replica's snapshots on disk: it restores one at its start and writes others as it follows."""

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
    """Restores the newest snapshot; writes one at a time, at least `interval` positions apart."""

    def __init__(
        self,
        folder: SnapshotFolder,
        interval: int,
        *,
        current_seq: Callable[[], int],
        take: Callable[[], Callable[[], Snapshot]],
    ) -> None:
        """Neither reads nor writes yet.

        Args:
            folder: of the snapshots.
            interval: positions between two snapshots.
            current_seq: the replica's position; 0 while no snapshot can be taken.
            take: fixes the state at that position and returns a function that copies it, which
                can run on any thread.
        """
        self._folder = folder
        self._interval = interval
        self._current_seq = current_seq
        self._take = take
        self._writing: asyncio.Task[None] | None = None
        self._last_seq = 0  # of the last snapshot that was restored or begun

    @property
    def is_used(self) -> bool:
        """Whether a snapshot has been restored or begun."""
        return self._last_seq > 0

    async def restore(
        self, new_applier: Callable[[str], Applier]
    ) -> tuple[Applier, Snapshot] | None:
        """Restores the newest snapshot; None if there is none, or it is not usable.

        Args:
            new_applier: base model's digest → an empty applier.

        Returns:
            An applier with the snapshot's state, and the snapshot.
        """
        snapshot = await asyncio.to_thread(self._folder.newest)
        if snapshot is None or not snapshot.captured.lanes:
            return None
        captured, seq = snapshot.captured, snapshot.position.seq
        applier = new_applier(captured.lanes[0][0].base_model_digest)
        try:
            await until_available(lambda: applier.restore(captured, seq), "artifacts")
        except ErrataError as error:
            _log.warning("snapshot skipped", seq=seq, reason=error.message)
            return None
        self._last_seq = seq
        return applier, snapshot

    def write_if_due(self) -> None:
        """Starts writing a snapshot, unless it is too early or one is being written."""
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
            _log.warning("snapshot not written", folder=path, reason=str(error))
        finally:
            self._writing = None
        self.write_if_due()  # for entries that came meanwhile, perhaps the last for a long time
