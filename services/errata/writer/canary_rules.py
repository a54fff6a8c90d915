"""Ends canaries by their rules, as the counts of the replicas and the clock say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from errata.errors import ErrataError
from errata.log.canary_entries import CanaryComparison, CanaryCounts, Outcome
from errata.writer.canaries import Canaries
from errata.writer.canary_book import CanaryRecord
from errata.writer.canary_tally import CanaryReport, CanaryTally
from errata.writer.edited_model import EditedModel
from errata.writer.publish import AUTHOR
from errata.writer.timetable import Clock

_log = structlog.get_logger(__name__)
_LOOK_SECONDS = 2.0

Reports = Callable[[], Awaitable[Sequence[CanaryReport]]]
"""Asks all log services what their replicas reported."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How a canary ends.

    Attributes:
        outcome: promoted or rolled back.
        comment: why, with the figures.
    """

    outcome: Outcome
    comment: str


def decide(
    canary: CanaryRecord, counted: CanaryComparison | None, now: datetime
) -> Decision | None:
    """What the rule of an open canary says; None if it says nothing yet.

    Args:
        canary: is open.
        counted: what replicas counted; None if they reported nothing.
        now: the time.
    """
    if canary.set_by == AUTHOR and canary.rule is None and not canary.has_audience:
        return Decision(Outcome.ROLLED_BACK, canary.comment)  # an earlier writer had begun to
    rule = canary.rule
    if rule is None or counted is None or counted.canary.requests < rule.min_requests:
        return None
    trial, rest = counted.canary, counted.rest
    figures = f"{_failed(trial)} in it failed, and {_failed(rest)} of the rest"
    if trial.error_share - rest.error_share > rule.max_error_increase:
        return Decision(
            Outcome.ROLLED_BACK,
            f"by its rule: {figures}; the rule allows {rule.max_error_increase:.2%} more.",
        )
    open_seconds = (now - canary.audience_time).total_seconds()
    if rule.promote_after_seconds and open_seconds >= rule.promote_after_seconds:
        return Decision(
            Outcome.PROMOTED,
            f"by its rule: it had this audience for {open_seconds:,.0f} s; {figures}.",
        )
    return None


def _failed(counts: CanaryCounts) -> str:
    return f"{counts.errors:,} of {counts.requests:,} requests ({counts.error_share:.2%})"


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
        """Asks once, and starts to end those whose rules say so."""
        try:
            reports = await self._reports()
        except ErrataError as error:
            _log.warning("the counts of canaries cannot be read", reason=error.message)
            return
        opened = self._book.open_ones()
        self._tally.note({canary.name: canary.opened_seq for canary in opened}, reports)
        for canary in opened:
            decision = decide(canary, self._tally.of(canary.name), self._clock())
            if decision is not None:
                self._canaries.end_by_rule(canary.name, decision.outcome, decision.comment)
