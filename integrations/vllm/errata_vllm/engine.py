"""The engine contract over vLLM.

One task admits: it takes requests and changes in the order of their arrival, decides on plans, and
hands requests to vLLM with all that they need. A change of weights waits until vLLM has no request;
every other change concerns only the requests behind it (P6).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import structlog
from torch import Tensor

from errata.editing.model.causal_lm import CausalLM
from errata.engine.contract import ServingEngine, Swap
from errata.engine.job import Job, pieces_of
from errata.engine.limits import EngineLimits
from errata.engine.refusals import no_room, queue_full, shutting_down, too_late, too_long
from errata.engine.routing import TOGETHER
from errata.engine.sequence import (
    GenerationRequest,
    Piece,
    Request,
    ScoredContinuation,
    ScoringRequest,
    Version,
)
from errata.engine.serving_state import ServingState
from errata.engine.statistics import Statistics
from errata.errors import UnavailableError, traceback_of
from errata_vllm.decisions import Decided, decide
from errata_vllm.llm import Llm
from errata_vllm.running import RunningRequests, fail
from errata_vllm.settings import VllmSettings

_log = structlog.get_logger(__name__)
_POLL_SECONDS = 0.02


@dataclass(eq=False, slots=True)
class _Change:
    """A change that is waiting for its turn."""

    swap: Swap
    alters_weights: bool
    done: asyncio.Future[None]


class VllmEngine(ServingEngine):
    """Generation and scoring by vLLM, over the weights of the replica's own model.

    The replica's model routes and attributes. Its edited down projections are copied into vLLM's
    workers whenever a change alters them.
    """

    def __init__(
        self,
        model: CausalLM,
        state: ServingState,
        limits: EngineLimits,
        options: Mapping[str, str] = MappingProxyType({}),
        *,
        open_llm: Callable[[], Llm] | None = None,
    ) -> None:
        """Prepares the engine; `start` starts vLLM.

        Args:
            model: the replica's, with its base weights.
            state: describes the model as it is now.
            limits: how much work to accept.
            options: of `VllmSettings`.
            open_llm: starts vLLM; by default with the model's folder and the options.

        Raises:
            InvalidRequestError: an option is unknown, or its value does not fit.
        """
        self._settings = VllmSettings.of(options)
        self._model = model
        self._state = state
        self._limits = limits
        self._max_context = limits.longest(model.max_positions)
        self._open = open_llm or self._open_llm
        self._llm: Llm | None = None
        self._running: RunningRequests | None = None
        self._held: list[Tensor] = model.down_weights()  # what vLLM's workers have
        self._digests: dict[int, str] = {}  # of those that a change has replaced, by layer
        self._inbox: deque[Job | _Change] = deque()
        self._arrival = asyncio.Event()
        self._admitter: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def version(self) -> Version:
        """New requests are admitted under this version."""
        return self._state.version

    @property
    def alive(self) -> bool:
        """Whether the engine works, now or once it is started."""
        return not self._closed and (self._llm is None or self._llm.alive)

    @property
    def num_running(self) -> int:
        """Requests that vLLM has and that fit its rows."""
        return min(self._num_handed, self._limits.max_rows)

    @property
    def num_waiting(self) -> int:
        """Requests without a row."""
        jobs = sum(isinstance(item, Job) for item in self._inbox)
        return jobs + self._num_handed - self.num_running

    @property
    def statistics(self) -> Statistics:
        """Sums since the start."""
        return Statistics() if self._running is None else self._running.statistics

    @property
    def cache_usage(self) -> float:
        """KV cache in use, as a fraction (0 to 1) of vLLM's."""
        return 0.0 if self._llm is None else self._llm.usage.cache

    async def start(self) -> None:
        """Starts vLLM.

        Raises:
            PreconditionError: this version of vLLM is not tested, or cannot edit the model.
        """
        self._llm = await asyncio.to_thread(self._open)
        await self._llm.start()
        idle_bytes = self._settings.artifact_mib * 2**20
        self._running = RunningRequests(self._llm, self._model, idle_bytes)
        await self._running.listen(self._state.attribution)
        self._admitter = asyncio.create_task(
            self._admit(self._llm, self._running), name="errata-vllm-admit"
        )

    async def close(self) -> None:
        """Stops; unfinished requests fail with UnavailableError."""
        self._closed = True
        if self._admitter is not None:
            self._admitter.cancel()
            await asyncio.gather(self._admitter, return_exceptions=True)
        self._fail_waiting()
        if self._running is not None:
            await self._running.close()
        if self._llm is not None:
            await asyncio.to_thread(self._llm.close)

    async def drain(self, seconds: float) -> None:
        """Waits until no request is running or waiting, at most `seconds`."""
        end = time.monotonic() + seconds
        while (self.num_running or self.num_waiting) and time.monotonic() < end:
            await asyncio.sleep(_POLL_SECONDS)

    async def change(self, swap: Swap, *, alters_weights: bool) -> None:
        """Runs `swap` behind the requests that have arrived; returns when new ones get its state.

        Args:
            swap: puts a prepared change into the replica's model and returns the new serving state.
                If it raises, the serving state stays as it was.
            alters_weights: whether it changes down projections. It waits until vLLM has no request,
                up to `max_drain_seconds`; then those that have sent nothing start again behind it,
                and the others fail.

        Raises:
            UnavailableError: the engine was closed, or vLLM's processes have ended.
        """
        self._refuse_if_closed()
        done = asyncio.get_running_loop().create_future()
        self._inbox.append(_Change(swap, alters_weights, done))
        self._arrival.set()
        await done

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece, None]:
        """Yields the continuation; pieces that a slow reader has not read yet are joined.

        Raises:
            As the contract says.
        """
        job = self._enqueue(request)
        try:
            async for piece in pieces_of(job):
                yield piece
        finally:
            self._cancel(job)

    async def score(self, request: ScoringRequest) -> ScoredContinuation:
        """Scores a continuation.

        Raises:
            As `generate`.
        """
        job = self._enqueue(request)
        try:
            result: ScoredContinuation | BaseException = await job.results.get()
        finally:
            self._cancel(job)
        if isinstance(result, BaseException):
            raise result
        return result

    @property
    def _num_handed(self) -> int:
        return 0 if self._running is None else len(self._running)

    def _refuse_if_closed(self) -> None:
        if not self.alive:
            raise shutting_down()

    def _enqueue(self, request: Request) -> Job:
        self._refuse_if_closed()
        request = request.within(self._max_context)
        num_tokens = request.num_prefill_tokens + request.num_new_tokens
        if num_tokens > self._max_context:
            raise too_long(num_tokens, self._max_context)
        if self.num_waiting >= self._limits.max_queue:
            assert self._running is not None, "requests wait only once the engine is started"
            seconds = self._running.rate.seconds_for(self.num_waiting)
            raise queue_full(self._limits.max_queue, seconds)
        job = Job(request, asyncio.get_running_loop())
        self._inbox.append(job)
        self._arrival.set()
        return job

    def _cancel(self, job: Job) -> None:
        job.cancelled = True
        if self._running is not None:
            self._running.cancel(job)

    def _fail_waiting(self) -> None:
        for item in self._inbox:
            if isinstance(item, Job):
                fail([item], shutting_down())
            else:
                item.done.cancel()
        self._inbox.clear()

    async def _admit(self, llm: Llm, running: RunningRequests) -> None:
        """Takes what arrives, in order."""
        try:
            while True:
                await self._arrival.wait()
                self._arrival.clear()
                while self._inbox:
                    first = self._inbox[0]
                    if isinstance(first, _Change):
                        self._inbox.popleft()
                        await self._apply(first, llm, running)
                    else:
                        await self._start(self._next_jobs(), running)
        except Exception as error:  # a bug; health reports it, and no caller waits indefinitely
            _log.critical("the admission failed", exception=traceback_of(error))
            self._closed = True
            self._fail_waiting()
            raise

    def _next_jobs(self) -> list[Job]:
        jobs: list[Job] = []
        now = time.monotonic()
        while self._inbox and len(jobs) < TOGETHER:
            job = self._inbox[0]
            if not isinstance(job, Job):
                break
            self._inbox.popleft()
            if job.request.deadline < now:
                fail([job], too_late())
            elif not job.cancelled:
                jobs.append(job)
        return jobs

    async def _start(self, jobs: Sequence[Job], running: RunningRequests) -> None:
        """Decides on requests and hands them to vLLM; one that fails must not fail the others."""
        if not jobs:
            return
        requests = [job.request for job in jobs]
        try:
            decided = await asyncio.to_thread(decide, self._state, requests)
        except Exception as error:  # noqa: BLE001 reported to the callers that it concerns
            if len(jobs) > 1:
                for job in jobs:
                    await self._start([job], running)
                return
            _log.error("a request could not be routed", exception=traceback_of(error))
            fail(jobs, error)
            return
        for job, decision in zip(jobs, decided, strict=True):
            if self._fits(job, decision) and not job.cancelled:
                try:
                    await running.start(job, decision)
                except UnavailableError as error:  # vLLM has died; health reports it
                    fail([job], error)

    def _fits(self, job: Job, decision: Decided) -> bool:
        num_positions = decision.plan.num_positions
        job.request = request = job.request.within(self._max_context - num_positions)
        needed = request.num_prefill_tokens + num_positions + request.num_new_tokens
        if needed > self._max_context:
            fail([job], no_room(num_positions, needed, self._max_context))
            return False
        return True

    async def _apply(self, change: _Change, llm: Llm, running: RunningRequests) -> None:
        again: list[Job] = []
        if change.alters_weights:
            again = await running.retract(self._limits.max_drain_seconds)
        try:
            state = await asyncio.to_thread(change.swap)
        except Exception as error:  # noqa: BLE001 raised again in the waiting coroutine
            _resolve(change, error)
        else:
            try:
                await self._copy_weights(llm, running)
            except Exception as error:  # noqa: BLE001 raised again in the waiting coroutine
                # The replica's model and vLLM's differ now: only a restart from the log helps.
                self._closed = True
                failure = UnavailableError(f"vLLM did not take the new weights: {error}")
                fail(again, failure)
                _resolve(change, failure)
                return
            self._state = state
            await running.listen(state.attribution)
            _resolve(change, None)
        self._inbox.extendleft(reversed(again))

    async def _copy_weights(self, llm: Llm, running: RunningRequests) -> None:
        """Gives vLLM the down projections that differ from those it has."""
        wanted = self._model.down_weights()
        pairs = zip(wanted, self._held, strict=True)
        changed = {layer: new for layer, (new, old) in enumerate(pairs) if new is not old}
        if not changed:
            return
        self._digests |= await llm.replace_down(changed)
        self._held = wanted
        state = json.dumps(self._digests, sort_keys=True)
        running.weights_digest = hashlib.sha256(state.encode()).hexdigest()

    def _open_llm(self) -> Llm:
        hf: Any = self._model.model
        return Llm(
            hf.config.name_or_path,
            str(self._model.dtype).removeprefix("torch."),
            max_rows=self._limits.max_rows,
            max_context=self._max_context,
            prefill_tokens=self._limits.prefill_tokens,
            settings=self._settings,
        )


def _resolve(change: _Change, error: Exception | None) -> None:
    if change.done.cancelled():
        return
    if error is None:
        change.done.set_result(None)
    else:
        change.done.set_exception(error)
