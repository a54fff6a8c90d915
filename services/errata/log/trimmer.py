"""When entries leave Redis, and when request ids are forgotten."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog

from errata.errors import ErrataError, PreconditionError, traceback_of
from errata.log.archive.horizon import forget_requests
from errata.log.archive.index import ArchiveIndex
from errata.log.archive.trim import Trim
from errata.log.backend import Reading
from errata.log.entries import SnapshotTaken
from errata.log.store import RedisLog
from errata.platform.settings import LogSettings

_log = structlog.get_logger(__name__)


class Trimmer:
    """Keeps the log in Redis short.

    Attributes:
        floor_seq: the first entry in Redis, when the trimmer looked last; 0 before that.
        archive: what is archived; None if nothing is, or not known yet.
        num_failures: how often a trim failed, or the archive could not be read for one.
    """

    def __init__(self, settings: LogSettings, log: RedisLog) -> None:
        """Looks at nothing yet.

        Args:
            settings: of the log.
            log: whose entries are moved; it needs an artifact store.
        """
        self.floor_seq = 0
        self.archive: ArchiveIndex | None = None
        self.num_failures = 0
        self._source = log
        self._is_on = settings.trim
        self._grace = timedelta(seconds=settings.trim_grace_seconds)
        self._keep_entries = settings.trim_keep_entries
        self._interval = settings.trim_interval_seconds
        self._horizon = timedelta(seconds=settings.request_id_horizon_seconds)
        self._stopped = asyncio.Event()
        self._next_forgetting = 0.0  # by the monotonic clock

    async def run(self) -> None:
        """Looks every `log.trim_interval_seconds`, until `stop`; failures end nothing."""
        # Cancellation alone is not enough: redis-py can swallow one that meets its own timeout.
        while not self._stopped.is_set():
            try:
                await self.step()
            except ErrataError as error:
                self.num_failures += 1
                _log.error("the log was not trimmed", reason=error.message, **error.metadata)
            except Exception as error:  # noqa: BLE001 - a bug here must not end appends
                self.num_failures += 1
                _log.error("the log was not trimmed", reason=traceback_of(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._stopped.wait()

    def stop(self) -> None:
        """Ends `run` after its current step."""
        self._stopped.set()

    async def step(self) -> None:
        """Trims if it is due, then forgets request ids beyond the horizon.

        Raises:
            LogBehindWitnessError: the log is damaged.
            ErrataError: as `Trim.run` and `forget_requests`; the log is as it was before that step.
        """
        self._source.check()
        records = self._source.records
        before = await records.backend.read(1, 0, 1)
        if before is None or before.log_id != self._source.log_id or records.archive is None:
            return
        await self._look(before)
        if self._is_on and (snapshot := self._due(before)) is not None:
            index = await Trim(records, records.archive, before).run(snapshot)
            if index is not None:
                self._note(index)
                _log.info("the log was trimmed", floor_seq=self.floor_seq)
        if self.archive is not None and time.monotonic() >= self._next_forgetting:
            now = datetime.now(UTC)
            kept = await forget_requests(records, now - self._horizon)
            if kept is not None:
                wait = (kept + self._horizon - now).total_seconds()
                self._next_forgetting = time.monotonic() + wait

    def _due(self, before: Reading) -> SnapshotTaken | None:
        """The newest snapshot that is old enough and leaves enough entries in Redis."""
        newest = before.head.seq - self._keep_entries
        latest = datetime.now(UTC) - self._grace
        found = [
            snapshot
            for entry, snapshot in self._source.snapshots()
            if before.floor.seq < snapshot.seq <= newest and entry.append_time <= latest
        ]
        return max(found, key=lambda snapshot: snapshot.seq, default=None)

    async def _look(self, before: Reading) -> None:
        """Notes what other services did."""
        self.floor_seq = before.floor_seq
        self._source.forget_snapshots(before.floor.seq)
        if before.archive is not None:
            self._note(await self._source.records.index(before))
        elif before.floor.seq and self._is_on:
            raise PreconditionError(
                f"the log was trimmed up to {before.floor.seq} without an archive, so it cannot be "
                "trimmed further. Restore Redis from a copy with all entries, or set log.trim to "
                "false.",
                floor_seq=before.floor_seq,
            )

    def _note(self, index: ArchiveIndex) -> None:
        self.archive, self.floor_seq = index, index.position.seq + 1
        self._source.forget_snapshots(index.position.seq)
