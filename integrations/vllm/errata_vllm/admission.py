"""What arrives at the engine: requests and changes, taken in order by one task.

A change of weights waits until vLLM has no request; every other change concerns only the requests
behind it (P6). vLLM gets little more than fits its rows, so that no change waits for a queue.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from errata.engine.contract import Swap
from errata.engine.job import Job
from errata.engine.limits import EngineLimits
from errata.engine.refusals import no_room, shutting_down, too_late
from errata.engine.routing import TOGETHER
from errata.engine.sequence import ScoringRequest
from errata.engine.serving_state import ServingState
from errata.errors import UnavailableError, traceback_of
from errata_vllm.copied_weights import CopiedWeights
from errata_vllm.decisions import Decided, decide
from errata_vllm.running import RunningRequests

_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Change:
    """A change that is waiting for its turn.

    Attributes:
        swap: puts it into the replica's model.
        alters_weights: whether it changes down projections.
        done: resolved when new requests get its state.
    """

    swap: Swap
    alters_weights: bool
    done: asyncio.Future[None]

    def end(self, error: Exception | None = None) -> None:
        """Ends the coroutine's wait."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class Admission:
    """The inbox, and the task that empties it.

    Attributes:
        state: new requests are admitted under it.
        closed: nothing is admitted any more.
    """

    def __init__(
        self,
        state: ServingState,
        limits: EngineLimits,
        max_context: int,
        running: RunningRequests,
        weights: CopiedWeights,
    ) -> None:
        """Nothing has arrived; `run` admits.

        Args:
            state: the first serving state.
            limits: rows, and how long a change waits.
            max_context: longest sequence.
            running: takes the requests.
            weights: takes the changes of weights.
        """
        self.state = state
        self.closed = False
        self._limits = limits
        self._max_context = max_context
        self._running = running
        self._weights = weights
        self._inbox: deque[Job | Change] = deque()
        self._admitting: list[Job] = []  # taken from the inbox, and not handed over yet
        self._applying: Change | None = None
        self._expiries: dict[Job, asyncio.TimerHandle] = {}
        self._event = asyncio.Event()
        running.on_end = self._event.set

    @property
    def num_jobs(self) -> int:
        """Requests that vLLM does not have yet."""
        return len(self._admitting) + sum(isinstance(item, Job) for item in self._inbox)

    def add(self, item: Job | Change) -> None:
        """Appends a request or a change."""
        self._inbox.append(item)
        if isinstance(item, Job):
            self._watch(item)
        self._event.set()

    def cancel(self, job: Job) -> None:
        """Removes a request whose caller has left."""
        job.cancelled = True
        self._unwatch(job)
        if job in self._inbox:
            self._inbox.remove(job)

    def close(self) -> None:
        """Fails all that waits here."""
        self.closed = True
        for job in (*self._admitting, *(i for i in self._inbox if isinstance(i, Job))):
            job.results.put_nowait(shutting_down())
        for change in (self._applying, *(i for i in self._inbox if isinstance(i, Change))):
            if change is not None:
                change.end(shutting_down())
        for handle in self._expiries.values():
            handle.cancel()
        self._inbox.clear()
        self._admitting, self._applying, self._expiries = [], None, {}

    async def run(self) -> None:
        """Takes what arrives, in order, until the engine is closed."""
        try:
            while not self.closed:
                await self._event.wait()
                self._event.clear()
                await self._take()
        except Exception as error:  # a bug; health reports it, and no caller waits indefinitely
            _log.critical("the admission failed", exception=traceback_of(error))
            raise
        finally:
            self.close()

    async def _take(self) -> None:
        while self._inbox and not self.closed:
            first = self._inbox[0]
            if isinstance(first, Change):
                self._applying = first
                self._inbox.popleft()
                await self._apply(first)
                self._applying = None
                continue
            room = 2 * self._limits.max_rows - len(self._running)
            if room <= 0:  # the end of a request wakes this task
                return
            self._admitting = self._next_jobs(min(room, TOGETHER))
            await self._start(list(self._admitting))
            self._admitting = []

    def _next_jobs(self, most: int) -> list[Job]:
        jobs: list[Job] = []
        while self._inbox and len(jobs) < most:
            job = self._inbox[0]
            if not isinstance(job, Job):
                break
            self._inbox.popleft()
            self._unwatch(job)
            jobs.append(job)
        return jobs

    async def _start(self, jobs: Sequence[Job]) -> None:
        """Decides on requests and hands them to vLLM; one that fails must not fail the others."""
        requests = [job.request for job in jobs]
        try:
            decided = await asyncio.to_thread(decide, self.state, requests)
        except Exception as error:  # noqa: BLE001 reported to the callers that it concerns
            if len(jobs) > 1:
                for job in jobs:
                    await self._start([job])
                return
            _log.error("a request could not be routed", exception=traceback_of(error))
            self._fail(jobs[0], error)
            return
        for job, decision in zip(jobs, decided, strict=True):
            if job.cancelled or not self._fits(job, decision):
                continue
            try:
                await self._running.start(job, decision)
            except Exception as error:  # noqa: BLE001 reported to the caller that it concerns
                self._fail(job, error)
            else:
                self._admitting.remove(job)

    def _fail(self, job: Job, error: Exception) -> None:
        if job in self._admitting:
            self._admitting.remove(job)
        job.results.put_nowait(error)

    def _fits(self, job: Job, decision: Decided) -> bool:
        num_positions = decision.plan.num_positions
        job.request = request = job.request.within(self._max_context - num_positions)
        needed = request.num_prefill_tokens + num_positions + request.num_new_tokens
        needed += isinstance(request, ScoringRequest)  # vLLM makes a token behind it
        if needed > self._max_context:
            self._fail(job, no_room(num_positions, needed, self._max_context))
            return False
        return True

    async def _apply(self, change: Change) -> None:
        if change.alters_weights:
            self._admitting = await self._running.retract(self._limits.max_drain_seconds)
        try:
            state = await asyncio.to_thread(change.swap)
        except Exception as error:  # noqa: BLE001 raised again in the waiting coroutine
            change.end(error)
        else:
            try:
                if change.alters_weights:
                    await self._weights.copy()
                await self._running.listen(state.attribution)
            except Exception as error:  # noqa: BLE001 raised again in the waiting coroutine
                # The replica's model and vLLM's differ now: only a restart from the log helps.
                change.end(UnavailableError(f"vLLM did not take the new weights: {error}"))
                self.close()
                return
            self.state = state
            change.end()
        again, self._admitting = self._admitting, []
        self._inbox.extendleft(reversed(again))
        for job in again:
            self._watch(job)

    def _watch(self, job: Job) -> None:
        """Fails the request if its deadline passes here."""
        loop = asyncio.get_running_loop()
        if job.request.deadline < math.inf:
            delay = max(0.0, job.request.deadline - time.monotonic())
            self._expiries[job] = loop.call_later(delay, self._expire, job)

    def _unwatch(self, job: Job) -> None:
        handle = self._expiries.pop(job, None)
        if handle is not None:
            handle.cancel()

    def _expire(self, job: Job) -> None:
        del self._expiries[job]
        self._inbox.remove(job)
        job.results.put_nowait(too_late())
