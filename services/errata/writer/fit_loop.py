"""Fits pending edits, batch by batch, for as long as the writer runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from errata.platform.failpoints import failpoint_async
from errata.platform.metrics import FIT_SECONDS
from errata.platform.settings import WriterSettings
from errata.platform.tracing import span
from errata.replica.open_lane import OpenLane
from errata.writer.edited_model import EditedModel
from errata.writer.fitting import fit_batch
from errata.writer.publish import Publisher
from errata.writer.record import EditRecord
from errata.writer.schedule import next_fit

_log = structlog.get_logger(__name__)


class FitLoop:
    """Chooses the next batch, fits it, checks it, and publishes the outcome."""

    def __init__(self, edited: EditedModel, publisher: Publisher, settings: WriterSettings) -> None:
        """Fits nothing yet.

        Args:
            edited: the writer's model and ledger.
            publisher: appends to the log.
            settings: limits.
        """
        self._edited = edited
        self._ledger = edited.ledger
        self._publisher = publisher
        self._settings = settings
        self._alone: frozenset[str] = frozenset()  # edits that failed in a batch

    async def run(self) -> None:
        """Fits until the model is closing; call it after `EditedModel.begin`.

        Raises:
            EpochLostError: a newer writer took over.
        """
        wait = 0.0
        while not self._edited.is_closing:
            await self._ledger.wait_until(
                lambda: self._edited.has_unapplied or self._ledger.num_pending > 0
            )
            is_old = wait > 0 and not await self._log_grows_within(wait)
            if not is_old and self._ledger.num_pending < self._settings.max_batch_edits:
                await asyncio.sleep(self._settings.batch_window_seconds)
            async with self._edited.exclusive():
                await self._edited.apply_all()
                if not self._edited.is_closing:
                    wait = await self._fit_next()

    async def _log_grows_within(self, seconds: float) -> bool:
        """Whether an entry arrives before the time is up: another lane's edit must not wait."""
        known = self._ledger.seq
        try:
            async with asyncio.timeout(seconds):
                await self._ledger.wait_until(lambda: self._ledger.seq != known)
        except TimeoutError:
            return False
        return True

    async def _fit_next(self) -> float:
        """Fits the batch that is due; returns after how many seconds to look again."""
        lanes = self._edited.lanes
        now = datetime.now(UTC)
        due = next_fit(self._ledger, lanes, self._settings.max_batch_edits, self._alone, now)
        if not due.records:
            return due.wait_seconds
        name = due.records[0].lane
        batch = await asyncio.to_thread(due.batch, lanes[name])
        traces = [record.trace_parent for record in batch]
        with span("fit", parent=traces[0], links=traces[1:], lane=name, num_edits=len(batch)):
            await self._fit(lanes[name], batch)
        for warning in self._edited.report(name).warnings:
            _log.warning("the lane is nearly full", lane=name, warning=warning)
        return 0.0

    async def _fit(self, lane: OpenLane, batch: Sequence[EditRecord]) -> None:
        name, names = batch[0].lane, [record.edit.name for record in batch]
        self._ledger.set_fitting(names, True)
        try:
            await failpoint_async("writer.fit.before")
            with FIT_SECONDS.labels(name).time():
                outcome = await asyncio.to_thread(
                    fit_batch,
                    self._edited.model,
                    lane,
                    [record.edit for record in batch],
                    self._settings,
                )
        finally:
            self._ledger.set_fitting(names, False)
        await failpoint_async("writer.fit.after")
        self._alone = (self._alone | outcome.retry_alone) - outcome.settled
        await self._publisher.publish(name, lane.configured.config_digest, outcome)
