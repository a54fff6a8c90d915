"""The simple engine: requests are batched by arrival, and a batch runs to its end.

One thread owns the model. Changes of the model wait for the running batch and go before the next
one, so that every answer is computed under exactly one version (P6). Iteration-level scheduling
can take this engine's place behind the same four methods.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from errata.editing.causal_lm import CausalLM
from errata.editing.method import Attribution
from errata.engine import forward
from errata.engine.sequence import (
    GenerationRequest,
    GrowingText,
    Piece,
    ScoredContinuation,
    ScoringRequest,
    Version,
)
from errata.errors import InvalidRequestError, QueueFullError, UnavailableError

_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Job:
    """A request in the engine, and the way back to the event loop that waits for it."""

    request: GenerationRequest | ScoringRequest
    loop: asyncio.AbstractEventLoop
    results: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    cancelled: bool = False

    def deliver(self, result: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(self.results.put_nowait, result)
        except RuntimeError:  # the loop closed: nobody waits any more
            self.cancelled = True


@dataclass(slots=True)
class _Row:
    """A generation job in the running batch."""

    job: _Job
    text: GrowingText
    done: bool = False


class BatchEngine:
    """Runs generation and scoring over one model in a thread of its own."""

    def __init__(
        self, model: CausalLM, *, version: Version, max_batch_size: int, max_queue: int
    ) -> None:
        """Prepares the engine; `start` starts its thread.

        Args:
            model: owned by the engine's thread from `start` on.
            version: what the model stands for now.
            max_batch_size: rows of a batch.
            max_queue: waiting requests beyond which new ones are refused.
        """
        self._model = model
        self._version = version
        self._attribute: Callable[[], Attribution] | None = None
        self._max_batch_size = max_batch_size
        self._max_queue = max_queue
        self._waiting: deque[_Job] = deque()
        self._changes: deque[tuple[Callable[[], _Change], asyncio.Future[None]]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="errata-engine", daemon=True)

    @property
    def version(self) -> Version:
        """What the model stands for now."""
        return self._version

    def start(self) -> None:
        """Starts the engine's thread."""
        self._thread.start()

    def close(self) -> None:
        """Stops after the running batch; waiting requests fail with UnavailableError."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    async def change(self, swap: Callable[[], _Change]) -> None:
        """Runs `swap` between two batches; returns when the model is in the new version.

        Args:
            swap: puts a prepared change into the model and returns the new version with what
                names the edits in force. If it raises, the version stays as it was.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._wake:
            self._refuse_if_closed()
            self._changes.append((swap, done))
            self._wake.notify()
        await done

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        """Yields the continuation as it is made; the last piece has a finish reason.

        Raises:
            InvalidRequestError: prompt and `max_tokens` exceed the model's longest sequence.
            QueueFullError: too many requests wait.
            UnavailableError: the engine was closed.
        """
        self._check_length(len(request.prompt_ids) + request.max_tokens)
        job = self._enqueue(request)
        try:
            while True:
                piece = await job.results.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                if piece.finish_reason:
                    return
        finally:
            job.cancelled = True  # a caller that went away frees its row at the next step

    async def score(self, request: ScoringRequest) -> ScoredContinuation:
        """Scores a continuation.

        Raises:
            InvalidRequestError: prompt and continuation exceed the model's longest sequence.
            QueueFullError: too many requests wait.
            UnavailableError: the engine was closed.
        """
        self._check_length(len(request.prompt_ids) + len(request.continuation_ids))
        job = self._enqueue(request)
        try:
            result = await job.results.get()
        finally:
            job.cancelled = True
        if isinstance(result, BaseException):
            raise result
        scored: ScoredContinuation = result
        return scored

    def _check_length(self, num_tokens: int) -> None:
        limit = self._model.max_positions
        if num_tokens > limit:
            raise InvalidRequestError(
                f"prompt and continuation may have {num_tokens:,} tokens; the model takes "
                f"{limit:,}. Shorten the prompt or lower max_tokens.",
                field="prompt",
                num_tokens=num_tokens,
                limit=limit,
            )

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise UnavailableError("this replica is shutting down; try again.")

    def _enqueue(self, request: GenerationRequest | ScoringRequest) -> _Job:
        job = _Job(request, asyncio.get_running_loop())
        with self._wake:
            self._refuse_if_closed()
            if len(self._waiting) >= self._max_queue:
                raise QueueFullError(
                    f"{self._max_queue:,} requests wait already; try again in a second.",
                    retry_after_seconds=1,
                )
            self._waiting.append(job)
            self._wake.notify()
        return job

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._changes or self._waiting)
                if self._closed:
                    return self._fail_all()
                changes = list(self._changes)
                self._changes.clear()
                jobs = [] if changes else self._next_batch()
            for swap, done in changes:
                self._apply(swap, done)
            if jobs:
                self._run_batch(jobs)

    def _next_batch(self) -> list[_Job]:
        """Takes the oldest request and those of its kind behind it, in order of arrival."""
        live = [job for job in self._waiting if not job.cancelled]
        if not live:
            self._waiting.clear()
            return []
        alike = [job for job in live if type(job.request) is type(live[0].request)]
        batch = alike[: self._max_batch_size]
        while _span(batch) > self._model.max_positions:  # each alone fits
            batch.pop()
        taken = set(batch)
        self._waiting = deque(job for job in live if job not in taken)
        return batch

    def _apply(self, swap: Callable[[], _Change], done: asyncio.Future[None]) -> None:
        def settle(error: BaseException | None) -> None:
            if done.cancelled():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        try:
            self._version, self._attribute = swap()
        except Exception as error:  # noqa: BLE001 the waiting coroutine gets it
            done.get_loop().call_soon_threadsafe(settle, error)
        else:
            done.get_loop().call_soon_threadsafe(settle, None)

    def _run_batch(self, jobs: list[_Job]) -> None:
        try:
            if isinstance(jobs[0].request, ScoringRequest):
                self._score_batch(jobs)
            else:
                self._generate_batch(jobs)
        except Exception as error:  # noqa: BLE001 a failing batch must not end the engine
            _log.error("batch failed", num_rows=len(jobs), exc_info=error)
            for job in jobs:
                job.deliver(error)

    def _score_batch(self, jobs: list[_Job]) -> None:
        prompts = [job.request.prompt_ids for job in jobs]
        continuations = [
            job.request.continuation_ids for job in jobs if isinstance(job.request, ScoringRequest)
        ]
        log_p, own, shaped = forward.score(self._model, prompts, continuations, self._attribute)
        for job, row_log_p, row_own, edits in zip(jobs, log_p, own, shaped, strict=True):
            job.deliver(ScoredContinuation(tuple(row_log_p), tuple(row_own), self._version, edits))

    def _generate_batch(self, jobs: list[_Job]) -> None:
        rows = [
            _Row(job, GrowingText(self._model.tokenizer, job.request.stop))
            for job in jobs
            if isinstance(job.request, GenerationRequest)
        ]
        prompts = [job.request.prompt_ids for job in jobs]
        for next_ids, shaped in forward.greedy(self._model, prompts, self._attribute):
            for row, token_id, edits in zip(rows, next_ids, shaped, strict=True):
                self._advance(row, token_id, edits)
            if all(row.done for row in rows):
                return

    def _advance(self, row: _Row, token_id: int, edits: tuple[str, ...]) -> None:
        row.done = row.done or row.job.cancelled
        if row.done:
            return
        request = row.job.request
        assert isinstance(request, GenerationRequest)
        if token_id == self._model.tokenizer.eos_token_id:
            text, reason = row.text.finish(), "stop"
        else:
            text, reason = row.text.push(token_id), ""
            if row.text.stopped:
                reason = "stop"
            elif len(row.text.ids) == request.max_tokens:
                text, reason = text + row.text.finish(), "length"
        row.done = bool(reason)
        if text or reason:
            num_prompt = len(request.prompt_ids)
            row.job.deliver(
                Piece(text, num_prompt, len(row.text.ids), reason, self._version, edits)
            )

    def _fail_all(self) -> None:
        error = UnavailableError("this replica is shutting down; try again.")
        for job in self._waiting:
            job.deliver(error)
        for _, done in self._changes:
            done.get_loop().call_soon_threadsafe(done.cancel)


def _span(jobs: Sequence[_Job]) -> int:
    """Positions that a padded batch may reach: all rows step until the last one is done."""
    requests = [job.request for job in jobs]
    more = [r.max_tokens if isinstance(r, GenerationRequest) else 0 for r in requests]
    return max(len(request.prompt_ids) for request in requests) + max(more)


_Change = tuple[Version, Callable[[], Attribution] | None]
