"""Appends what the clock decides: releases of scheduled edits, ends of those that expire.

Only the active writer's clock counts, and only until an entry says what it decided: replicas follow
entries. So all of them change at the same position, whatever their clocks say.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import structlog

from errata.errors import PreconditionError
from errata.log.entries import EditsRejected, EditsReleased, EditsReverted, Rejection
from errata.platform.failpoints import failpoint_async
from errata.platform.limits import MAX_NAMED_EDITS
from errata.writer.edited_model import EditedModel
from errata.writer.publish import Publisher
from errata.writer.record import EditRecord, State

_log = structlog.get_logger(__name__)
_LOOK_SECONDS = 0.5
"""How often the clock is read: it can jump, and a machine can sleep."""
EXPIRED = "expired"
"""Comment of the reversal of an edit that expired."""

Clock = Callable[[], datetime]
"""The time, with a zone."""


def utc_now() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


class Timetable:
    """Releases and ends edits on time."""

    def __init__(
        self, edited: EditedModel, publisher: Publisher, decisions: asyncio.Lock, clock: Clock
    ) -> None:
        """Appends nothing yet.

        Args:
            edited: the writer's model and ledger.
            publisher: appends to the log.
            decisions: held by whoever decides on edits that wait.
            clock: tells the time.
        """
        self._edited = edited
        self._ledger = edited.ledger
        self._publisher = publisher
        self._decisions = decisions
        self._clock = clock

    async def run(self) -> None:
        """Appends what is due until the model is closing.

        Raises:
            EpochLostError: a newer writer took over.
        """
        while not self._edited.is_closing:
            await self.act()
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._ledger.wait_until(self._is_due)
            except TimeoutError:
                continue

    def _is_due(self) -> bool:
        return self._edited.is_closing or self._ledger.agenda.has_due(self._clock())

    async def act(self) -> None:
        """Appends what is due now; ends come first, so that nothing begins that has ended."""
        if not self._ledger.agenda.has_due(self._clock()):
            return
        # A commit must land on the state that it was checked on, and no fit may be running.
        async with self._edited.exclusive(), self._decisions:
            begins, ends = self._ledger.agenda.take_due(self._clock())
            await self._end([self._ledger.get(name) for name in ends])
            scheduled = [n for n in begins if self._ledger.get(n).state is State.SCHEDULED]
            for names in parts_of(scheduled):
                await failpoint_async("writer.release.before_append")
                seq = await self._publisher.append_own(
                    f"release|{'|'.join(names)}", EditsReleased(names)
                )
                _log.info("scheduled edits begin", seq=seq, num_edits=len(names))

    async def _end(self, records: Sequence[EditRecord]) -> None:
        committed, others = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for record in records:
            if record.state is State.COMMITTED:
                committed[record.lane].append(record.edit.name)
            elif not record.state.settled:
                others[record.lane].append(record.edit.name)
        for found in committed.values():
            for names in parts_of(found):
                await failpoint_async("writer.expire.before_append")
                reversal = EditsReverted(names, EXPIRED)
                await self._publisher.append_own(f"expire|{'|'.join(names)}", reversal)
        for lane, found in others.items():
            for names in parts_of(found):
                rejections = tuple(Rejection(name, self._too_late(name), None) for name in names)
                await self._publisher.append_own(
                    f"expire|{'|'.join(names)}", EditsRejected(lane, rejections)
                )

    def _too_late(self, name: str) -> PreconditionError:
        record = self._ledger.get(name)
        return PreconditionError(
            f"it expired at {record.times.expires_at} before it was committed; it was "
            f"{record.state.value}. Submit it again with a later time.",
            edit=name,
            state=record.state.value,
        )


def parts_of(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """As many names as one entry can have."""
    for start in range(0, len(names), MAX_NAMED_EDITS):
        yield tuple(names[start : start + MAX_NAMED_EDITS])
