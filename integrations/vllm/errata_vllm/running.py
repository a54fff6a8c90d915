"""The requests that vLLM has: one task each, from its admission to its last token."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import structlog
from vllm.outputs import RequestOutput

from errata.editing.lane.contract import Attribution
from errata.editing.model.causal_lm import CausalLM
from errata.engine.job import Job
from errata.engine.rate import Rate
from errata.engine.refusals import outlived, shutting_down, too_late
from errata.engine.sequence import GenerationRequest, Request, ScoringRequest
from errata.engine.statistics import Statistics
from errata_vllm.answers import Answer
from errata_vllm.artifacts import Ledger, RowArtifacts
from errata_vllm.copied_weights import CopiedWeights
from errata_vllm.decisions import Decided
from errata_vllm.llm import Llm
from errata_vllm.probes import OpenEar, ProbeSet
from errata_vllm.requests import sampling_params, scored, scoring_params, token_ids
from errata_vllm.timings import Timings

_log = structlog.get_logger(__name__)


class RunningRequests:
    """The requests that vLLM has.

    Attributes:
        statistics: sums since the start.
        rate: at which generations finish.
        on_end: called when a request has ended.
    """

    def __init__(self, llm: Llm, model: CausalLM, weights: CopiedWeights, idle_bytes: int) -> None:
        """vLLM has no request.

        Args:
            llm: the running vLLM.
            model: the replica's; gives the tokenizer.
            weights: what vLLM has of the model's edited weights.
            idle_bytes: size of artifacts without a request that stay in the workers.
        """
        self.statistics = Statistics()
        self.rate = Rate()
        self.on_end: Callable[[], object] = lambda: None
        self._llm = llm
        self._model = model
        self._weights = weights
        self._ledger = Ledger(idle_bytes)
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._probes: ProbeSet | None = None
        self._held = RowArtifacts({}, {})  # of the probes
        self._listen_to: list[dict[str, Any]] = []  # what requests tell the workers of them
        self._open_ears: dict[Job, OpenEar] = {}
        self._to_drop: list[str] = []  # digests of artifacts that the workers can forget
        self._answered: set[Job] = set()  # their last result is sent
        self._calls: set[asyncio.Task[object]] = set()
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._tasks)

    async def listen(self, attribution: Attribution | None) -> None:
        """Requests that start from now on are listened to for these edits of the weights.

        Raises:
            UnavailableError: vLLM's processes have ended.
        """
        if attribution is None and self._probes is None:
            return
        probes = None if attribution is None else ProbeSet.of(attribution, self._probes)
        parts = [] if probes is None else probes.parts
        held = await asyncio.to_thread(self._ledger.of_parts, parts)
        await self._send(held)
        self._to_drop += self._ledger.give_back(self._held)
        self._ledger.forget(self._held, but=held)
        self._probes, self._held = probes, held
        self._listen_to = [] if probes is None else probes.wire(held)

    async def start(self, job: Job, decided: Decided) -> None:
        """Hands a request to vLLM, behind the artifacts that its workers lack for it.

        Raises:
            UnavailableError: vLLM's processes have ended.
        """
        row = self._ledger.row(decided.plan)
        await self._send(row)
        if job.cancelled:  # while the artifacts were under way
            self._to_drop += self._ledger.give_back(row)
            return
        task = asyncio.create_task(self._run(job, decided, row))
        self._tasks[job] = task
        task.add_done_callback(partial(self._ended, job, row))

    async def _send(self, row: RowArtifacts) -> None:
        """Sends what the workers lack; only here, so that no drop overtakes what follows it."""
        missing = self._ledger.take(row)
        dropped, self._to_drop = self._to_drop, []
        try:
            await self._llm.drop(dropped)
            await self._llm.put(missing)
        except BaseException:
            self._ledger.lose([part.digest for part in missing])
            self._ledger.give_back(row)
            raise

    def cancel(self, job: Job) -> None:
        """Ends a request whose caller has left, if vLLM has it."""
        task = self._tasks.get(job)
        if task is not None:
            task.cancel()

    async def retract(self, seconds: float) -> list[Job]:
        """Waits until vLLM has no request, at most `seconds`, and takes back those that remain.

        Returns:
            Requests that can start again. Those that have sent something failed.
        """
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=seconds)
        again = []
        for job in self._tasks.keys() - self._answered:
            if job.has_output:
                job.results.put_nowait(outlived(seconds))
            elif not job.cancelled:
                again.append(job)
        await self._stop()
        return sorted(again, key=lambda job: job.arrived)

    async def close(self) -> None:
        """Fails every request."""
        for job in self._tasks.keys() - self._answered:
            job.results.put_nowait(shutting_down())
        await self._stop()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, job: Job, row: RowArtifacts, _: asyncio.Task[None]) -> None:
        del self._tasks[job]
        self._answered.discard(job)
        self._to_drop += self._ledger.give_back(row)
        ear = self._open_ears.pop(job, None)
        if self._llm.alive and ear is not None:  # nobody fetches what it heard
            call = asyncio.create_task(self._llm.hits([ear.key]))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        self.on_end()

    def _answer(self, job: Job, result: object) -> None:
        """Sends the last result of a request."""
        self._answered.add(job)
        job.results.put_nowait(result)

    async def _run(self, job: Job, decided: Decided, row: RowArtifacts) -> None:
        request = job.request
        try:
            async with asyncio.timeout(request.deadline - time.monotonic()):
                if isinstance(request, GenerationRequest):
                    await self._generate(job, request, decided, row)
                else:
                    await self._score(job, request, decided, row)
        except TimeoutError:
            self._answer(job, too_late())
        except Exception as error:  # noqa: BLE001 reported to the caller that it concerns
            _log.warning("a request failed in vLLM", error=type(error).__name__)
            self._answer(job, error)

    async def _generate(
        self, job: Job, request: GenerationRequest, decided: Decided, row: RowArtifacts
    ) -> None:
        model = self._model
        answer = Answer(request, model.tokenizer, model.end_ids, decided)
        ear = self._ear(request, decided)
        params = sampling_params(request, row, model.end_ids, ear, in_parts=answer.in_parts)
        timings = Timings(job.arrived, self.statistics)
        ids = token_ids(request.prompt_ids, decided.plan)
        if ear is not None:
            self._open_ears[job] = ear
        # Closed here, and not later by the garbage collector: vLLM must have ended the request
        # before a change of weights may follow.
        async with aclosing(
            self._llm.generate(ids, params, self._salt(row), self._name())
        ) as outputs:
            await self._read(job, answer, outputs, timings, decided)

    async def _read(
        self,
        job: Job,
        answer: Answer,
        outputs: AsyncIterator[RequestOutput],
        timings: Timings,
        decided: Decided,
    ) -> None:
        async for output in outputs:
            made = output.outputs[0]
            timings.note(len(made.token_ids), output.metrics)
            if job in self._open_ears:
                answer.edits = await self._heard(self._open_ears.pop(job), decided)
            piece = answer.take(made)
            if answer.reason:
                timings.end(answer.reason, len(job.request.prompt_ids), answer.num_tokens)
                self.rate.note(sum(self.statistics.finished.values()))
                self._answer(job, piece)
                return
            if piece is not None:
                job.has_output = True
                job.results.put_nowait(piece)

    async def _score(
        self, job: Job, request: ScoringRequest, decided: Decided, row: RowArtifacts
    ) -> None:
        ids = token_ids((*request.prompt_ids, *request.continuation_ids), decided.plan)
        ear = self._ear(request, decided)
        params = scoring_params(row, ear)
        if ear is not None:
            self._open_ears[job] = ear
        async with aclosing(
            self._llm.generate(ids, params, self._salt(row), self._name())
        ) as outputs:
            output = await anext(outputs)
        edits = decided.plan.edits
        if job in self._open_ears:
            edits = await self._heard(self._open_ears.pop(job), decided)
        assert output.prompt_logprobs is not None
        self._answer(job, scored(request.continuation_ids, output.prompt_logprobs, decided, edits))

    def _ear(self, request: Request, decided: Decided) -> OpenEar | None:
        """What listens to a request's prompt; None if no edit of the weights is in force."""
        if self._probes is None:
            return None
        prompt_end = len(request.prompt_ids) + decided.plan.num_positions
        return OpenEar(self._name(), prompt_end, self._probes, self._listen_to)

    async def _heard(self, ear: OpenEar, decided: Decided) -> tuple[str, ...]:
        """The edits that claim a request, then those of the weights that shape its answer."""
        hits = (await self._llm.hits([ear.key]))[ear.key]
        return tuple(dict.fromkeys((*decided.plan.edits, *ear.probes.edits(hits))))

    def _salt(self, row: RowArtifacts) -> str:
        """Requests share cached prefixes if their weights and their effects are the same."""
        return f"{self._weights.digest}{row.digest}"

    def _name(self) -> str:
        return f"errata-{next(self._numbers)}"
