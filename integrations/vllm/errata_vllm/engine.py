"""The engine contract over vLLM: what a replica sees of admission, running requests and weights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from errata.editing.model.causal_lm import CausalLM
from errata.engine.contract import Swap
from errata.engine.job import Job
from errata.engine.limits import EngineLimits
from errata.engine.queued import QueuedEngine
from errata.engine.refusals import queue_full, shutting_down, too_long
from errata.engine.sequence import (
    Request,
    ScoringRequest,
    Version,
)
from errata.engine.serving_state import ServingState
from errata.engine.statistics import Statistics
from errata_vllm.admission import Admission, Change
from errata_vllm.copied_weights import CopiedWeights
from errata_vllm.llm import Llm
from errata_vllm.running import RunningRequests
from errata_vllm.settings import VllmSettings


class VllmEngine(QueuedEngine):
    """Generation and scoring by vLLM, over the weights of the replica's own model.

    The replica's model routes. Its edited down projections are copied into vLLM's workers whenever
    a change alters them.
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
        self._first_state = state
        self._limits = limits
        self._max_context = limits.longest(model.max_positions)
        self._open = open_llm or self._open_llm
        self._llm: Llm | None = None
        self._running: RunningRequests | None = None
        self._admission: Admission | None = None
        self._admitter: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def version(self) -> Version:
        """New requests are admitted under this version."""
        state = self._first_state if self._admission is None else self._admission.state
        return state.version

    @property
    def alive(self) -> bool:
        """Whether the engine works, now or once it is started."""
        if self._closed or (self._admission is not None and self._admission.closed):
            return False
        return self._llm is None or self._llm.alive

    @property
    def num_running(self) -> int:
        """Requests that vLLM has and that fit its rows."""
        return min(self._num_handed, self._limits.max_rows)

    @property
    def num_waiting(self) -> int:
        """Requests without a row."""
        jobs = 0 if self._admission is None else self._admission.num_jobs
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
        opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        try:
            self._llm = await asyncio.shield(opening)
        except asyncio.CancelledError:  # processes that nobody knows would stay
            opening.add_done_callback(_close_opened)
            raise
        await self._llm.start()
        weights = CopiedWeights(self._model, self._llm)
        idle_bytes = self._settings.artifact_mib * 2**20
        self._running = RunningRequests(self._llm, self._model, weights, idle_bytes)
        await self._running.listen(self._first_state.attribution)
        self._admission = Admission(
            self._first_state,
            self._limits,
            self._max_context,
            self._running,
            weights,
        )
        self._admitter = asyncio.create_task(self._admission.run(), name="errata-vllm-admit")

    async def close(self) -> None:
        """Stops; unfinished requests fail with UnavailableError."""
        self._closed = True
        if self._admitter is not None:
            self._admitter.cancel()
            await asyncio.gather(self._admitter, return_exceptions=True)
        if self._admission is not None:
            self._admission.close()
        if self._running is not None:
            await self._running.close()
        if self._llm is not None:
            await asyncio.to_thread(self._llm.close)

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
        change = Change(swap, alters_weights, asyncio.get_running_loop().create_future())
        self._open_admission().add(change)
        await change.done

    @property
    def _num_handed(self) -> int:
        return 0 if self._running is None else len(self._running)

    def _open_admission(self) -> Admission:
        if self._admission is None or not self.alive:
            raise shutting_down()
        return self._admission

    def _enqueue(self, request: Request) -> Job:
        admission = self._open_admission()
        request = request.within(self._max_context)
        num_tokens = request.num_prefill_tokens + request.num_new_tokens
        num_tokens += isinstance(request, ScoringRequest)  # vLLM makes a token behind it
        if num_tokens > self._max_context:
            raise too_long(num_tokens, self._max_context)
        if self.num_waiting >= self._limits.max_queue:
            assert self._running is not None, "it is started with the admission"
            seconds = self._running.rate.seconds_for(self.num_waiting)
            raise queue_full(self._limits.max_queue, seconds)
        job = Job(request, asyncio.get_running_loop())
        admission.add(job)
        return job

    def _cancel(self, job: Job) -> None:
        if self._admission is not None:
            self._admission.cancel(job)
        if self._running is not None:
            self._running.cancel(job)

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


def _close_opened(opening: asyncio.Future[Llm]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
