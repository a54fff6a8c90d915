"""A request inside the engine, and the delivery of its results to the caller's event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from errata.engine.sequence import Piece, Request, ScoredContinuation
from errata.engine.serving_state import Decision, ServingState


@dataclass(eq=False, slots=True)
class Job:
    """A request and where its results go.

    Attributes:
        request: what the caller asks for.
        loop: event loop of the caller.
        arrived: `time.monotonic()` of its arrival.
        results: pieces, a scored continuation, or the exception that ended it.
        cancelled: no caller is waiting any more.
        has_output: a result was sent, so that the work cannot be repeated unnoticed.
        runs_alone: a pass that it shared failed; its next pass is not shared.
        decision: its plan, and the serving state under which that was decided; or None.
    """

    request: Request
    loop: asyncio.AbstractEventLoop
    arrived: float = field(default_factory=time.monotonic)
    results: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    has_output: bool = False
    runs_alone: bool = False
    decision: tuple[ServingState, Decision] | None = None

    def decision_under(self, state: ServingState) -> Decision | None:
        """What was decided under a serving state; None if nothing was."""
        if self.decision is None or self.decision[0] is not state:
            return None
        return self.decision[1]


async def pieces_of(job: Job) -> AsyncGenerator[Piece, None]:
    """Yields a generation's pieces; those that a slow reader has not read yet are joined.

    Raises:
        Whatever ended it without an answer.
    """
    while True:
        result = await job.results.get()
        while isinstance(result, Piece) and not job.results.empty():
            result = _joined(result, job.results.get_nowait())
        if isinstance(result, BaseException):
            raise result
        yield result
        if result.finish_reason:
            return


async def score_of(job: Job) -> ScoredContinuation:
    """The result of a scoring request.

    Raises:
        Whatever ended it without one.
    """
    result: ScoredContinuation | BaseException = await job.results.get()
    if isinstance(result, BaseException):
        raise result
    return result


def _joined(earlier: Piece, later: object) -> Piece | BaseException:
    """Joins two pieces of one stream; an error replaces the text before it."""
    if not isinstance(later, Piece):
        assert isinstance(later, BaseException)
        return later
    return replace(
        later, text=earlier.text + later.text, choices=(*earlier.choices, *later.choices)
    )


class ResultBuffer:
    """Collects an iteration's results: one wake-up for each event loop, not one for each row."""

    def __init__(self) -> None:
        self._results: dict[asyncio.AbstractEventLoop, list[tuple[Job, Any]]] = {}

    def put(self, job: Job, result: Any) -> None:
        """Sends `result` at the next `flush`."""
        job.has_output = True
        self._results.setdefault(job.loop, []).append((job, result))

    def flush(self) -> None:
        """Sends everything that was put since the last flush."""
        for loop, results in self._results.items():
            try:
                loop.call_soon_threadsafe(_deliver, results)
            except RuntimeError:  # the loop is closed: no caller is waiting any more
                for job, _ in results:
                    job.cancelled = True
        self._results = {}


def _deliver(results: Iterable[tuple[Job, Any]]) -> None:
    for job, result in results:
        job.results.put_nowait(result)
