"""Sends many corrections at a rate that leaves room for others, and follows each to its end."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from errata.bulk.fates import REPEATED, Fate, Report, fate_of, refusal
from errata.bulk.row import Row
from errata_client import (
    AsyncClient,
    Edit,
    EditState,
    ErrataError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnknownLaneError,
)

_FATAL = (UnauthenticatedError, PermissionDeniedError, UnknownLaneError)
_WAITED_AT_ONCE = 32  # edits of one call
_WAIT_SECONDS = 30.0
_FIRST_DELAY_SECONDS, _MAX_DELAY_SECONDS = 0.2, 10.0
_IDLE_SECONDS = 0.02

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """How to import.

    Attributes:
        lane: that takes all edits; if empty, each row's own or its canary's, or the default lane.
        author: of the edits.
        rate: most rows sent in a second; 0 for no limit.
        in_flight: most edits of this import that are not settled: those of others are fitted
            beside them, and the writer's queue has room.
        wait: follow edits until they are settled; else until they are in the log.
        patience_seconds: how long a service may be away before the import gives up.
    """

    lane: str = ""
    author: str = ""
    rate: float = 0.0
    in_flight: int = 64
    wait: bool = True
    patience_seconds: float = 300.0


class Importer:
    """One import; it may be cut off at any moment and started again with the same rows."""

    def __init__(
        self, client: AsyncClient, plan: ImportPlan, report: Report, on_fate: Callable[[], object]
    ) -> None:
        """Sends nothing yet.

        Args:
            client: of the system.
            plan: how.
            report: gets the fates.
            on_fate: called after each.
        """
        self._client = client
        self._plan = plan
        self._report = report
        self._on_fate = on_fate
        self._room = asyncio.Semaphore(plan.in_flight)
        self._open: deque[tuple[int, str]] = deque()  # rows that are not settled, and their edits
        self._has_sent_all = False
        self._last_settled = time.monotonic()

    async def run(self, rows: Sequence[Row]) -> None:
        """Sends all rows and follows them; rows that say the same are sent once.

        Raises:
            UnauthenticatedError, PermissionDeniedError, UnknownLaneError: no row can be sent.
            ErrataError: a service was away for longer than the plan's patience.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_all(rows))
                tasks.create_task(self._follow_all())
        except BaseExceptionGroup as group:
            raise _first(group) from group

    async def _send_all(self, rows: Sequence[Row]) -> None:
        plan, sent = self._plan, set[str]()
        pause = 1.0 / plan.rate if plan.rate else 0.0
        due = time.monotonic()
        async with asyncio.TaskGroup() as sending:
            for row in rows:
                lane = plan.lane or row.lane
                request_id = row.request_id(lane, plan.author)
                if request_id in sent:
                    self._note(Fate(row.number, REPEATED))
                    continue
                sent.add(request_id)
                await self._room.acquire()
                await asyncio.sleep(due - time.monotonic())
                due = max(due, time.monotonic() - pause) + pause
                sending.create_task(self._send(row, lane, request_id))
        self._has_sent_all = True

    async def _send(self, row: Row, lane: str, request_id: str) -> None:
        plan = self._plan
        try:
            (edit,) = await self._patiently(
                lambda: self._client.submit_edits(
                    [row.spec], lane=lane, author=plan.author, request_id=request_id
                )
            )
        except _FATAL:
            raise
        except ErrataError as error:
            if error.retryable:
                raise
            self._settle(refusal(row.number, error))
            return
        if _rests(edit) or not plan.wait:
            self._settle(fate_of(row.number, edit))
        else:
            if not self._open:
                self._last_settled = time.monotonic()  # nothing was waited for until now
            self._open.append((row.number, edit.name))

    async def _follow_all(self) -> None:
        while self._open or not self._has_sent_all:
            if not self._open:
                await asyncio.sleep(_IDLE_SECONDS)
                continue
            oldest = [self._open[n] for n in range(min(_WAITED_AT_ONCE, len(self._open)))]
            edits = await self._looked_at([name for _, name in oldest])
            for row, edit in zip(oldest, edits, strict=True):
                self._open.popleft()
                if edit.state.settled or edit.state.waits:
                    self._settle(fate_of(row[0], edit))
                else:  # the wait ended before the edit
                    self._open.append(row)
            self._check_progress()

    def _check_progress(self) -> None:
        """Gives up where the writer answers but settles nothing.

        Raises:
            UnavailableError: for as long as the plan's patience.
        """
        if time.monotonic() - self._last_settled > self._plan.patience_seconds:
            raise UnavailableError(
                f"no edit of this import was settled for {self._plan.patience_seconds:.0f} s. See "
                "the writer's log; then run the same command again to go on."
            )

    async def _looked_at(self, names: Sequence[str]) -> list[Edit]:
        """The edits once all are settled, or as they are after a while."""
        return await self._patiently(lambda: self._client.wait_edits(names, timeout=_WAIT_SECONDS))

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeats a call until it succeeds, or the plan's patience ends."""
        delay, since = _FIRST_DELAY_SECONDS, time.monotonic()
        while True:
            try:
                return await call()
            except ErrataError as error:
                away = time.monotonic() - since
                if not error.retryable or away > self._plan.patience_seconds:
                    raise
                wait = error.retry_after_seconds
                await asyncio.sleep(min(_MAX_DELAY_SECONDS, wait or delay * random.uniform(0.5, 1)))
                delay = min(2 * delay, _MAX_DELAY_SECONDS)

    def _settle(self, fate: Fate) -> None:
        self._last_settled = time.monotonic()
        self._room.release()
        self._note(fate)

    def _note(self, fate: Fate) -> None:
        self._report.add(fate)
        self._on_fate()


def _rests(edit: Edit) -> bool:
    """Whether waiting changes nothing: it is settled, proposed, or scheduled for later."""
    begin = edit.spec.effective_from
    is_early = begin is not None and begin > datetime.now(UTC)
    waits = edit.state is EditState.PROPOSED or (edit.state is EditState.SCHEDULED and is_early)
    return edit.state.settled or waits


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure; the others are its consequence."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
