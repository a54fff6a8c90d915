"""The engine: one running batch that requests join and leave between two forward passes.

One thread owns the model. An iteration removes expired requests, applies changes of the model,
admits requests under a token budget, reads their prompts, and makes one token for every row.
"""

from __future__ import annotations

import asyncio
import threading

import structlog
import torch

from errata.editing.effects.hooks import PlanHooks
from errata.editing.model.causal_lm import CausalLM
from errata.engine.batch import RunningBatch
from errata.engine.changes import ChangeQueue
from errata.engine.contract import Swap
from errata.engine.failures import FailurePolicy
from errata.engine.job import Job, ResultBuffer
from errata.engine.limits import EngineLimits
from errata.engine.output import Output
from errata.engine.queued import QueuedEngine
from errata.engine.refusals import no_room, shutting_down, too_long
from errata.engine.routing import TOGETHER, route_jobs
from errata.engine.runner import Runner
from errata.engine.scheduler import Scheduler
from errata.engine.scoring import score_jobs
from errata.engine.sequence import (
    Request,
    ScoringRequest,
    Version,
)
from errata.engine.serving_state import Decision, ServingState, initial_plan
from errata.engine.statistics import Statistics
from errata.errors import traceback_of

_log = structlog.get_logger(__name__)


class Engine(QueuedEngine):
    """Generation and scoring over one model, in a thread of its own."""

    def __init__(self, model: CausalLM, state: ServingState, limits: EngineLimits) -> None:
        """Prepares the engine; `start` starts its thread.

        Args:
            model: owned by the engine's thread from `start` on.
            state: describes the model as it is now.
            limits: how much work to accept.
        """
        self._model = model
        self._limits = limits
        self._max_context = limits.longest(model.max_positions)
        self._wake = threading.Condition()
        self._closed = False
        self._results = ResultBuffer()
        self._runner = Runner(model, limits.max_rows, self._max_context)
        self._output = Output(self._runner, limits.max_rows, self._results)
        self._batch = RunningBatch(self._runner, limits.max_rows, self._output)
        self._scheduler = Scheduler(self._batch, self._results, self._wake, limits)
        self._changes = ChangeQueue(
            model, state, self._batch, self._scheduler, self._results, self._wake, limits
        )
        self._failures = FailurePolicy(self._batch, self._scheduler, self._results)
        self._thread = threading.Thread(target=self._run, name="errata-engine", daemon=True)

    @property
    def version(self) -> Version:
        """New requests are admitted under this version."""
        return self._changes.state.version

    @property
    def hooks(self) -> PlanHooks:
        """The hooks that apply plans."""
        return self._runner.hooks

    @property
    def alive(self) -> bool:
        """Whether the engine works, now or once it is started."""
        return not self._closed

    @property
    def num_running(self) -> int:
        """Generations that have a row."""
        return len(self._batch.rows)

    @property
    def num_waiting(self) -> int:
        """Requests without a row."""
        return len(self._scheduler)

    @property
    def statistics(self) -> Statistics:
        """Sums since the start."""
        return self._output.statistics

    @property
    def cache_usage(self) -> float:
        """Cache entries in use, as a fraction (0 to 1) of those of all rows."""
        used = int(self._runner.lengths[: self.num_running].sum())
        return used / (self._limits.max_rows * self._max_context)

    async def start(self) -> None:
        """Starts the engine's thread."""
        self._thread.start()

    async def close(self) -> None:
        """Stops after the current iteration; unfinished requests fail with UnavailableError."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    async def change(self, swap: Swap, *, alters_weights: bool) -> None:
        """Runs `swap` between two iterations; returns when new requests get the new state.

        Args:
            swap: puts a prepared change into the model and returns the new serving state. If it
                raises, the serving state stays as it was.
            alters_weights: whether it changes down projections, which every row reads.
        """
        with self._wake:
            self._refuse_if_closed()
            done = self._changes.add(swap, alters_weights=alters_weights)
        await done

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise shutting_down()

    def _enqueue(self, request: Request) -> Job:
        request = request.within(self._max_context)
        num_tokens = request.num_prefill_tokens + request.num_new_tokens
        if num_tokens > self._max_context:
            raise too_long(num_tokens, self._max_context)
        job = Job(request, asyncio.get_running_loop())
        with self._wake:
            self._refuse_if_closed()
            self._scheduler.add(job)
        return job

    def _cancel(self, job: Job) -> None:
        self._scheduler.cancel(job)

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._iterate()
        except Exception as error:  # a bug; health reports it, and no caller waits indefinitely
            _log.critical("engine thread failed", exception=traceback_of(error))
            raise
        finally:
            with self._wake:
                self._closed = True
            self._fail_all()

    def _wait_for_work(self) -> bool:
        """Returns once there is something to do; False if the engine was closed."""
        with self._wake:
            self._wake.wait_for(
                lambda: self._closed or self._changes or self._scheduler or self._batch.rows
            )
            return not self._closed

    def _iterate(self) -> None:
        self._scheduler.expire()
        may_admit = self._changes.apply_due()
        self._compute(self._admitted() if may_admit else [])
        self._results.flush()
        self._scheduler.note_finished(self._output.num_finished)

    def _admitted(self) -> list[tuple[Job, Decision]]:
        """The next requests with the decisions on them; those that do not fit are refused."""
        jobs = self._scheduler.schedule()
        if not jobs:
            return []
        try:
            decisions = route_jobs(
                self._changes.state,
                jobs,
                self._scheduler.first(TOGETHER),
                self._limits.prefill_tokens,
            )
        except Exception as error:  # noqa: BLE001 reported to the callers that it concerns
            self._failures.handle(jobs, error)
            return []
        fitting = []
        for job, decision in zip(jobs, decisions, strict=True):
            num_positions = initial_plan(decision).num_positions
            job.request = request = job.request.within(self._max_context - num_positions)
            needed = request.num_prefill_tokens + num_positions + request.num_new_tokens
            if needed > self._max_context:
                self._results.put(job, no_room(num_positions, needed, self._max_context))
            else:
                fitting.append((job, decision))
        return fitting

    def _compute(self, admitted: list[tuple[Job, Decision]]) -> None:
        """One prefill and one step; a pass that fails must not end the engine."""
        with torch.inference_mode():
            try:
                self._start(admitted)
                if self._batch.is_prefilling:
                    self._batch.prefill(self._limits.prefill_tokens)
            except Exception as error:  # noqa: BLE001 reported to the callers that it concerns
                self._failures.handle([job for job, _ in admitted], error)
            try:
                self._batch.step()
            except Exception as error:  # noqa: BLE001 reported to the callers that it concerns
                self._failures.retry_individually([row.job for row in self._batch.rows], error)
        if not self._batch.rows:
            self._runner.cache.shrink()

    def _start(self, admitted: list[tuple[Job, Decision]]) -> None:
        """Scores the admitted requests, or gives them rows."""
        state, weights = self._changes.state, self._changes.weights
        if admitted and isinstance(admitted[0][0].request, ScoringRequest):
            self._model.use_down_weights(weights.tensors)
            score_jobs(self._runner, state, admitted, self._results)
            return
        for job, decision in admitted:
            self._batch.admit(job, state, weights, decision)

    def _fail_all(self) -> None:
        for job in (*self._scheduler, *(row.job for row in self._batch.rows)):
            self._results.put(job, shutting_down())
        self._results.flush()
        self._changes.cancel_all()
