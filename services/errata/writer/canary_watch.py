"""Ends canaries by their rules, and finishes roll-backs that have begun."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from errata.errors import ErrataError
from errata.writer.canaries import Canaries
from errata.writer.canary_book import CanaryRecord
from errata.writer.canary_rules import Decision, decide
from errata.writer.canary_tally import CanaryReport, CanaryTally
from errata.writer.edited_model import EditedModel
from errata.writer.timetable import Clock

_log = structlog.get_logger(__name__)
_LOOK_SECONDS = 2.0

Reports = Callable[[], Awaitable[Sequence[CanaryReport]]]
"""Asks all log services what their replicas reported."""


class CanaryWatch:
    """Asks for the replicas' counts again and again while canaries are open."""

    def __init__(
        self,
        edited: EditedModel,
        canaries: Canaries,
        tally: CanaryTally,
        reports: Reports,
        clock: Clock,
    ) -> None:
        """Asks for nothing yet.

        Args:
            edited: the writer's model and ledger.
            canaries: ends them.
            tally: adds up the reports.
            reports: asks for them.
            clock: tells the time.
        """
        self._edited = edited
        self._book = edited.ledger.canaries
        self._canaries = canaries
        self._tally = tally
        self._reports = reports
        self._clock = clock

    async def run(self) -> None:
        """Looks until the model is closing."""
        edited, ledger = self._edited, self._edited.ledger
        while not edited.is_closing:
            await ledger.wait_until(lambda: edited.is_closing or self._book.has_open)
            await self.look()
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await ledger.wait_until(lambda: edited.is_closing)
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Finishes roll-backs; asks once, and starts to end those whose rules say so."""
        for canary in self._book.open_ones():
            if canary.rolling_back:  # an earlier writer may have begun to
                self._canaries.finish_roll_back(canary.name)
        try:
            reports = await self._reports()
        except ErrataError as error:
            _log.warning("the counts of canaries cannot be read", reason=error.message)
            return
        opened = self._book.open_ones()
        self._tally.note(opened, reports)
        for canary in opened:
            decision = self._decide(canary)
            if decision is not None:
                self._canaries.end_by_rule(canary.name, decision.outcome, self._decide)

    def _decide(self, canary: CanaryRecord) -> Decision | None:
        counted, recent = self._tally.of(canary.name), self._tally.recent_requests(canary.name)
        return decide(canary, counted, recent, self._clock())
