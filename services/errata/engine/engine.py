"""The engine: one running batch that requests join and leave between two forward passes.

One thread owns the model. An iteration drops what nobody waits for, makes changes of the model,
admits newcomers under a token budget, reads their prompts, and makes one token for every row.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace

import structlog
import torch

from errata.editing.effects.hooks import PlanHooks
from errata.editing.model.causal_lm import CausalLM
from errata.engine.batch import RunningBatch, Weights
from errata.engine.job import Job, Outbox
from errata.engine.rate import Rate
from errata.engine.refusals import no_room, outlived, too_late
from errata.engine.routing import TOGETHER, route_jobs
from errata.engine.runner import Runner
from errata.engine.sequence import (
    GenerationRequest,
    Piece,
    Request,
    Routed,
    ScoredContinuation,
    ScoringRequest,
    ServingState,
    Version,
)
from errata.engine.statistics import Statistics
from errata.errors import (
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
    traceback_of,
)

_log = structlog.get_logger(__name__)
_SWEEP_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How much the engine takes on.

    Attributes:
        max_rows: generations that run at once.
        max_queue: waiting requests beyond which new ones are refused.
        max_context: longest sequence, at most the model's; 0 takes the model's.
        prefill_tokens: padded prompt tokens that are read between two steps; bounds how long a
            newcomer holds up the tokens of the others.
        weight_versions: how many versions of edited weights may serve rows at once. With 1, a
            change of weights waits until the running rows are done; with more, rows end under
            the weights that they began with while newcomers have the new ones.
        max_drain_seconds: how long a change waits for room among the versions. Then the oldest
            rows begin anew under the new weights, or fail if they are streams.
    """

    max_rows: int = 16
    max_queue: int = 256
    max_context: int = 0
    prefill_tokens: int = 512
    weight_versions: int = 2
    max_drain_seconds: float = 10.0


@dataclass(eq=False, slots=True)
class _Change:
    """A change that waits for its turn."""

    swap: Callable[[], ServingState]
    alters_weights: bool
    done: asyncio.Future[None]
    asked: float = field(default_factory=time.monotonic)


class Engine:
    """Generation and scoring over one model, in a thread of its own."""

    def __init__(self, model: CausalLM, serving: ServingState, limits: EngineLimits) -> None:
        """Prepares the engine; `start` starts its thread.

        Args:
            model: owned by the engine's thread from `start` on.
            serving: what the model stands for now.
            limits: how much to take on.
        """
        self._model = model
        self._serving = serving
        self._limits = limits
        self._max_context = min(limits.max_context or model.max_positions, model.max_positions)
        self._outbox = Outbox()
        self._runner = Runner(model, limits.max_rows, self._max_context)
        self._batch = RunningBatch(self._runner, limits.max_rows, self._outbox)
        self._weights = Weights(model.down_weights())
        self._weights_version = 0
        self._waiting: deque[Job] = deque()
        self._changes: deque[_Change] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._swept = 0.0
        self._gone = False  # somebody stopped waiting since the last sweep
        self._rate = Rate()
        self._thread = threading.Thread(target=self._run, name="errata-engine", daemon=True)

    @property
    def version(self) -> Version:
        """What newcomers are admitted under."""
        return self._serving.version

    @property
    def hooks(self) -> PlanHooks:
        """What makes plans act."""
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
        return len(self._waiting)

    @property
    def statistics(self) -> Statistics:
        """What was done so far."""
        return self._batch.statistics

    @property
    def cache_usage(self) -> float:
        """Cache entries in use, 0 to 1 of what all rows may have."""
        used = int(self._runner.lengths[: self.num_running].sum())
        return used / (self._limits.max_rows * self._max_context)

    def start(self) -> None:
        """Starts the engine's thread."""
        self._thread.start()

    def close(self) -> None:
        """Stops after the present iteration; all that is not done fails with UnavailableError."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    async def drain(self, seconds: float) -> None:
        """Waits until nothing runs and nothing waits; gives up after `seconds`."""
        ends = time.monotonic() + seconds
        while (self._waiting or self._batch.rows) and time.monotonic() < ends:
            await asyncio.sleep(_SWEEP_SECONDS)

    async def change(self, swap: Callable[[], ServingState], *, alters_weights: bool) -> None:
        """Runs `swap` between two iterations; returns when newcomers have the new state.

        Args:
            swap: puts a prepared change into the model and returns the new serving. If it raises,
                the serving state stays as it was.
            alters_weights: whether it touches down projections, which every row reads.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._wake:
            self._refuse_if_closed()
            self._changes.append(_Change(swap, alters_weights, done))
            self._wake.notify()
        await done

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece, None]:
        """Yields the continuation; pieces that a slow reader left lying come as one.

        Raises:
            InvalidRequestError: prompt and `max_tokens` exceed the longest sequence.
            QueueFullError: too many requests wait.
            DeadlineExceededError: the deadline passed in the queue or in the batch.
            UnavailableError: the engine was closed, or a stream outlived its weights' time.
        """
        self._check_length(len(request.prompt_ids) + request.max_tokens)
        job = self._enqueue(request)
        try:
            while True:
                result = await job.results.get()
                while isinstance(result, Piece) and not job.results.empty():
                    result = _joined(result, job.results.get_nowait())
                if isinstance(result, BaseException):
                    raise result
                yield result
                if result.finish_reason:
                    return
        finally:
            self._abandon(job)

    async def score(self, request: ScoringRequest) -> ScoredContinuation:
        """Scores a continuation.

        Raises:
            As `generate`.
        """
        self._check_length(len(request.prompt_ids) + len(request.continuation_ids))
        job = self._enqueue(request)
        try:
            result: ScoredContinuation | BaseException = await job.results.get()
        finally:
            self._abandon(job)
        if isinstance(result, BaseException):
            raise result
        return result

    def _check_length(self, num_tokens: int) -> None:
        if num_tokens > self._max_context:
            raise InvalidRequestError(
                f"prompt and continuation may have {num_tokens:,} tokens; the limit is "
                f"{self._max_context:,}. Shorten the prompt or lower max_tokens.",
                field="prompt",
                num_tokens=num_tokens,
                limit=self._max_context,
            )

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise UnavailableError("this replica is shutting down; try again.")

    def _enqueue(self, request: Request) -> Job:
        job = Job(request, asyncio.get_running_loop())
        with self._wake:
            self._refuse_if_closed()
            if len(self._waiting) >= self._limits.max_queue:
                delay = self._rate.seconds_for(len(self._waiting))
                raise QueueFullError(
                    f"{self._limits.max_queue:,} requests wait already; try again in {delay} s.",
                    retry_after_seconds=delay,
                )
            self._waiting.append(job)
            self._wake.notify()
        return job

    def _abandon(self, job: Job) -> None:
        job.cancelled = self._gone = True

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._iterate()
        except Exception as error:  # a bug; health says so, and nobody waits for ever
            _log.critical("the engine died", exception=traceback_of(error))
            raise
        finally:
            with self._wake:
                self._closed = True
            self._fail_all()

    def _wait_for_work(self) -> bool:
        """Returns once there is something to do; False if that is to end."""
        with self._wake:
            self._wake.wait_for(
                lambda: self._closed or self._changes or self._waiting or self._batch.rows
            )
            return not self._closed

    def _iterate(self) -> None:
        self._sweep()
        may_admit = self._make_changes()
        self._compute(self._admitted() if may_admit else [])
        self._outbox.flush()
        self._rate.note(self._batch.num_finished)

    def _sweep(self) -> None:
        """Frees the places of requests that nobody waits for any more."""
        now = time.monotonic()
        if not self._gone and now - self._swept < _SWEEP_SECONDS:
            return
        self._gone, self._swept = False, now
        for row in self._batch.expired():
            if not row.job.cancelled:
                self._outbox.put(row.job, too_late())
            self._batch.drop([row])
        with self._wake:
            late = [j for j in self._waiting if not j.cancelled and j.request.deadline < now]
            for job in late:
                self._outbox.put(job, too_late())
                job.cancelled = True
            self._waiting = deque(job for job in self._waiting if not job.cancelled)

    def _make_changes(self) -> bool:
        """Makes the changes whose turn it is; False if newcomers must wait for the next one."""
        while self._changes:
            change = self._changes[0]
            if change.alters_weights and self._num_versions() >= self._limits.weight_versions:
                if time.monotonic() - change.asked < self._limits.max_drain_seconds:
                    return self._limits.weight_versions > 1
                self._retract_oldest()
            with self._wake:
                self._changes.popleft()
            self._make(change)
        return True

    def _num_versions(self) -> int:
        """Weight versions that rows read; the present one counts only if a row reads it."""
        return len({row.weights_version for row in self._batch.rows})

    def _make(self, change: _Change) -> None:
        self._model.use_down_weights(self._weights.tensors)
        try:
            serving = change.swap()
        except Exception as error:  # noqa: BLE001 the waiting coroutine gets it
            self._settle(change, error)
            return
        if change.alters_weights:
            self._weights = Weights(self._model.down_weights())
            self._weights_version += 1
        self._serving = serving
        self._settle(change, None)

    def _settle(self, change: _Change, error: Exception | None) -> None:
        def settle() -> None:
            if change.done.cancelled():
                return
            if error is None:
                change.done.set_result(None)
            else:
                change.done.set_exception(error)

        change.done.get_loop().call_soon_threadsafe(settle)

    def _retract_oldest(self) -> None:
        """Rows of the oldest version begin anew; streams that were seen cannot, and fail."""
        oldest = min(row.weights_version for row in self._batch.rows)
        rows = [row for row in self._batch.rows if row.weights_version == oldest]
        _log.warning("rows outlived their weights", num_rows=len(rows))
        self._batch.drop(rows)
        again = [row.job for row in rows if not row.job.seen]
        for row in rows:
            if row.job.seen:
                self._outbox.put(row.job, outlived(self._limits.max_drain_seconds))
        with self._wake:
            self._waiting.extendleft(reversed(again))

    def _admitted(self) -> list[tuple[Job, Routed]]:
        """Takes the oldest requests that fit one prefill; scoring needs no row.

        One kind at a time: rows of a prefill go on, scored ones end with it.
        """
        jobs: list[Job] = []
        widest = 0
        with self._wake:
            while self._waiting and not self._batch.is_prefilling:
                job = self._waiting[0]
                alike = not jobs or type(job.request) is type(jobs[0].request)
                if not alike or (jobs and (job.alone or jobs[0].alone)):
                    break
                generates = isinstance(job.request, GenerationRequest)
                if generates and len(jobs) >= self._batch.num_free:
                    break
                widest = max(widest, _num_entries(job))
                if jobs and widest * (len(jobs) + 1) > self._limits.prefill_tokens:
                    break
                jobs.append(self._waiting.popleft())
        return self._routed([job for job in jobs if not job.cancelled])

    def _routed(self, jobs: list[Job]) -> list[tuple[Job, Routed]]:
        if not jobs:
            return []
        try:
            with self._wake:
                next_ones = list(itertools.islice(self._waiting, TOGETHER))
            plans = route_jobs(self._serving, jobs, next_ones, self._limits.prefill_tokens)
        except UnavailableError as error:
            self._give_up(jobs, error)
            return []
        except Exception as error:  # noqa: BLE001 told to whoever caused it
            self._isolate(jobs, error)
            return []
        fitting = []
        for job, (plan, late) in zip(jobs, plans, strict=True):
            needed = _num_entries(job) + plan.num_positions + _num_more(job)
            if needed > self._max_context:
                self._outbox.put(job, no_room(plan.num_positions, needed, self._max_context))
            else:
                fitting.append((job, (plan, late)))
        return fitting

    def _compute(self, jobs: list[tuple[Job, Routed]]) -> None:
        """One prefill and one step; a pass that fails must not end the engine."""
        with torch.inference_mode():
            try:
                if jobs and isinstance(jobs[0][0].request, ScoringRequest):
                    self._score(jobs)
                else:
                    for job, routed in jobs:
                        self._batch.admit(
                            job, self._serving, self._weights, self._weights_version, *routed
                        )
                if self._batch.is_prefilling:
                    self._batch.prefill(self._limits.prefill_tokens)
            except UnavailableError as error:  # of claims that are decided in mid-prefill
                self._give_up([job for job, _ in jobs], error)
            except Exception as error:  # noqa: BLE001 told to whoever caused it
                self._isolate([job for job, _ in jobs], error)
            try:
                self._batch.step()
            except Exception as error:  # noqa: BLE001 told to whoever caused it
                self._isolate([row.job for row in self._batch.rows], error)
        if not self._batch.rows:
            self._runner.cache.shrink()

    def _give_up(self, jobs: list[Job], error: Exception) -> None:
        """Ends all requests of a prefill alike: one by one would be no better."""
        rows = [row for row in self._batch.rows if row.num_left or row.job in jobs]
        self._batch.drop(rows)
        for job in dict.fromkeys([*jobs, *(row.job for row in rows)]):
            self._outbox.put(job, error)

    def _isolate(self, jobs: list[Job], error: Exception) -> None:
        """Lets each of the requests whose pass failed try once more by itself; then it fails."""
        _log.error("a pass failed", num_requests=len(jobs), exception=traceback_of(error))
        rows = [row for row in self._batch.rows if row.num_left or row.job in jobs]
        self._batch.drop(rows)
        concerned = list(dict.fromkeys([*jobs, *(row.job for row in rows)]))
        again = [job for job in concerned if not (job.alone or job.seen)]
        for job in concerned:
            if job.alone or job.seen:
                self._outbox.put(job, error)
            job.alone = True
        with self._wake:
            self._waiting.extendleft(reversed(again))

    def _score(self, jobs: list[tuple[Job, Routed]]) -> None:
        self._model.use_down_weights(self._weights.tensors)
        requests, plans = [job.request for job, _ in jobs], [plan for _, (plan, _) in jobs]
        log_p, own, edits = self._runner.score(
            [request.prompt_ids for request in requests],
            [r.continuation_ids for r in requests if isinstance(r, ScoringRequest)],
            plans,
            self._serving.attribution,
        )
        version = self._serving.version
        rows = zip(jobs, plans, log_p, own, edits, strict=True)
        for (job, _), plan, row_log_p, row_own, names in rows:
            shaped = tuple(dict.fromkeys((*plan.edits, *names)))
            result = ScoredContinuation(tuple(row_log_p), tuple(row_own), version, shaped, plan.cut)
            self._outbox.put(job, result)

    def _fail_all(self) -> None:
        error = UnavailableError("this replica is shutting down; try again.")
        for job in (*self._waiting, *(row.job for row in self._batch.rows)):
            self._outbox.put(job, error)
        self._outbox.flush()
        for change in self._changes:
            change.done.get_loop().call_soon_threadsafe(change.done.cancel)


def _num_entries(job: Job) -> int:
    """Entries of the first pass, without a prefix."""
    request = job.request
    if isinstance(request, ScoringRequest):
        return len(request.prompt_ids) + len(request.continuation_ids)
    return len(request.prompt_ids)


def _num_more(job: Job) -> int:
    return job.request.max_tokens if isinstance(job.request, GenerationRequest) else 0


def _joined(earlier: Piece, later: object) -> Piece | BaseException:
    """Two pieces of one stream as one; an error goes before what came until then."""
    if not isinstance(later, Piece):
        assert isinstance(later, BaseException)
        return later
    return replace(
        later, text=earlier.text + later.text, choices=(*earlier.choices, *later.choices)
    )
