"""The requests that vLLM has: one task each, from its admission to its last token."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine, Iterator, Sequence
from functools import partial
from typing import Any

import structlog

from errata.editing.lane.contract import Attribution
from errata.editing.model.causal_lm import CausalLM
from errata.engine.job import Job
from errata.engine.rate import Rate
from errata.engine.refusals import outlived, shutting_down, too_late
from errata.engine.sequence import GenerationRequest, Request, ScoringRequest
from errata.engine.statistics import Statistics
from errata_vllm.answers import Answer
from errata_vllm.artifacts import Ledger, RowArtifacts
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
        weights_digest: of the edited down projections that vLLM has; empty for the base model's.
    """

    def __init__(self, llm: Llm, model: CausalLM, idle_bytes: int) -> None:
        """vLLM has no request.

        Args:
            llm: the running vLLM.
            model: the replica's; gives the tokenizer.
            idle_bytes: size of artifacts without a request that stay in the workers.
        """
        self.statistics = Statistics()
        self.rate = Rate()
        self.weights_digest = ""
        self._llm = llm
        self._model = model
        self._ledger = Ledger(idle_bytes)
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._probes: ProbeSet | None = None
        self._held = RowArtifacts({}, {})  # of the probes
        self._open_ears: dict[Job, OpenEar] = {}
        self._calls: set[asyncio.Task[object]] = set()
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._tasks)

    async def listen(self, attribution: Attribution | None) -> None:
        """Requests that start from now on are listened to for these edits of the weights."""
        probes = None if attribution is None else ProbeSet.of(attribution, self._probes)
        held = self._ledger.of_parts(() if probes is None else probes.parts)
        await self._llm.put(self._ledger.take(held))
        await self._llm.drop(self._ledger.give_back(self._held))
        self._probes, self._held = probes, held

    async def start(self, job: Job, decided: Decided) -> None:
        """Hands a request to vLLM, behind the artifacts that its workers lack for it."""
        row = self._ledger.row(decided.plan)
        try:
            await self._llm.put(self._ledger.take(row))
        except BaseException:
            self._ledger.give_back(row)
            raise
        task = asyncio.create_task(self._run(job, decided, row))
        self._tasks[job] = task
        task.add_done_callback(partial(self._ended, job, row))

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
        for job in self._tasks:
            if job.has_output:
                job.results.put_nowait(outlived(seconds))
            elif not job.cancelled:
                again.append(job)
        await self._stop()
        return again

    async def close(self) -> None:
        """Fails every request."""
        for job in self._tasks:
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
        dropped = self._ledger.give_back(row)
        ear = self._open_ears.pop(job, None)
        if self._llm.alive and dropped:
            self._later(self._llm.drop(dropped))
        if self._llm.alive and ear is not None:  # nobody fetches what it heard
            self._later(self._llm.hits([ear.key]))

    def _later(self, call: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _run(self, job: Job, decided: Decided, row: RowArtifacts) -> None:
        request = job.request
        try:
            async with asyncio.timeout(request.deadline - time.monotonic()):
                if isinstance(request, GenerationRequest):
                    await self._generate(job, request, decided, row)
                else:
                    await self._score(job, request, decided, row)
        except TimeoutError:
            job.results.put_nowait(too_late())
        except Exception as error:  # noqa: BLE001 reported to the caller that it concerns
            _log.warning("a request failed in vLLM", error=type(error).__name__)
            job.results.put_nowait(error)

    async def _generate(
        self, job: Job, request: GenerationRequest, decided: Decided, row: RowArtifacts
    ) -> None:
        model = self._model
        answer = Answer(request, model.tokenizer, model.end_ids, decided)
        ear = self._ear(request, decided)
        params = sampling_params(request, row, model.end_ids, ear, in_parts=answer.in_parts)
        timings = Timings(job.arrived, self.statistics)
        ids = token_ids(request.prompt_ids, decided.plan)
        outputs = self._llm.generate(ids, params, self._salt(row), self._name())
        if ear is not None:
            self._open_ears[job] = ear
        async for output in outputs:
            made = output.outputs[0]
            timings.note(len(made.token_ids), output.metrics)
            if job in self._open_ears:
                answer.edits = await self._heard(self._open_ears.pop(job), decided)
            piece = answer.take(made)
            if answer.reason:
                timings.end(answer.reason, len(request.prompt_ids), answer.num_tokens)
                self.rate.note(sum(self.statistics.finished.values()))
            if piece is not None:
                job.has_output = True
                job.results.put_nowait(piece)
            if answer.reason:
                break
        await outputs.aclose()

    async def _score(
        self, job: Job, request: ScoringRequest, decided: Decided, row: RowArtifacts
    ) -> None:
        ids = token_ids((*request.prompt_ids, *request.continuation_ids), decided.plan)
        ear = self._ear(request, decided)
        params = scoring_params(row, ear)
        async for output in self._llm.generate(ids, params, self._salt(row), self._name()):
            assert output.prompt_logprobs is not None
            edits = decided.edits if ear is None else await self._heard(ear, decided)
            result = scored(request.continuation_ids, output.prompt_logprobs, decided, edits)
            job.results.put_nowait(result)

    def _ear(self, request: Request, decided: Decided) -> OpenEar | None:
        """What listens to a request's prompt; None if no edit of the weights is in force."""
        if self._probes is None:
            return None
        prompt_end = len(request.prompt_ids) + decided.plan.num_positions
        return OpenEar(self._name(), prompt_end, self._probes, self._probes.wire(self._held))

    async def _heard(self, ear: OpenEar, decided: Decided) -> tuple[str, ...]:
        """The edits that claim a request, then those of the weights that shape its answer."""
        hits = (await self._llm.hits([ear.key]))[ear.key]
        return tuple(dict.fromkeys((*decided.edits, *ear.probes.edits(hits))))

    def _salt(self, row: RowArtifacts) -> str:
        """Requests share cached prefixes if their weights and their effects are the same."""
        return f"{self.weights_digest}{row.digest}"

    def _name(self) -> str:
        return f"errata-{next(self._numbers)}"


def fail(jobs: Sequence[Job], error: BaseException) -> None:
    """Ends requests with an error."""
    for job in jobs:
        job.results.put_nowait(error)
