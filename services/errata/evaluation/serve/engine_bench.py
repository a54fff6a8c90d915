"""Runs an engine and compares it with a baseline: interleaved rounds, ratios within one run.

Every round, the baseline's included, runs in the engine's own thread: a second thread's worker pool
would slow whichever comes later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

from rich.console import Console

from errata.editing.model.causal_lm import CausalLM
from errata.engine.contract import ServingEngine
from errata.engine.limits import EngineLimits
from errata.engine.sequence import GenerationRequest, Version
from errata.engine.serving_state import ServingState
from errata.evaluation.serve.routed import SyntheticLane
from errata.evaluation.serve.workload import Timings, Workload, run_round
from errata.worker.engines import EMBEDDED, engine_factory

T = TypeVar("T")
Round = Callable[[], Awaitable[Timings]]
UNEDITED = ServingState(Version(0, bytes(32), "", 0))
_WARM_UP_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What to run.

    Attributes:
        model: folder or hub id.
        dtype: of the weights.
        device: torch device.
        rounds: how often the engine and the baseline alternate.
        workload: the requests.
        num_edits: active edits in the suite `unclaimed`.
        max_rows: rows of the running batch, and of the static batches.
        lane: for the suite `routed`.
        engine: its name, as `ERRATA_WORKER__ENGINE` has it.
        engine_options: of an engine that a package brings.
    """

    model: str
    dtype: str = "float32"
    device: str = "cpu"
    rounds: int = 5
    workload: Workload = field(default_factory=Workload)
    num_edits: int = 10_000
    max_rows: int = 32
    lane: SyntheticLane | None = None
    engine: str = EMBEDDED
    engine_options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineBench:
    """A running engine with everything that a suite needs of it."""

    plan: EnginePlan
    model: CausalLM
    engine: ServingEngine
    console: Console

    def requests(self, reserved: int = 0) -> list[GenerationRequest]:
        """The workload's requests.

        Args:
            reserved: positions of the model that prompts and continuations must leave free.
        """
        max_context = self.model.max_positions - reserved
        return self.plan.workload.requests(len(self.model.tokenizer), max_context)

    async def round(self, requests: Sequence[GenerationRequest]) -> Timings:
        """Runs all requests once, without streaming."""
        size = self.plan.workload.concurrency
        return await run_round(self.engine, requests, size, streaming=False)

    async def compare(
        self, name: str, requests: Sequence[GenerationRequest], ours: Round, baseline: Round
    ) -> dict[str, Any]:
        """Alternates the engine and the baseline, after two warm-up rounds each.

        Args:
            name: for the progress lines.
            requests: of a round; latencies are measured on them, streamed, at the end.
            ours: one round of the engine.
            baseline: one round of what it is compared with.

        Returns:
            `ratio` (median, with `ratio_min` and `ratio_max`), `tokens_per_second`, `requests` and
            `timings` of the streamed round.
        """
        rounds = self.plan.rounds
        for _ in range(_WARM_UP_ROUNDS):
            await ours()
            await baseline()
        rates: list[tuple[float, float]] = []
        for number in range(rounds):
            first = (await ours()).tokens_per_second
            rates.append((first, (await baseline()).tokens_per_second))
            self.console.print(
                f"{name} {number + 1}/{rounds}: ours {rates[-1][0]:,.0f} tokens/s, "
                f"baseline {rates[-1][1]:,.0f}"
            )
        await ours()  # restores our state, whatever the baseline left
        size = self.plan.workload.concurrency
        latencies = await run_round(self.engine, requests, size, streaming=True)
        ratios = sorted(mine / other for mine, other in rates)
        return {
            "ratio": median(ratios),
            "ratio_min": ratios[0],
            "ratio_max": ratios[-1],
            "tokens_per_second": {
                "ours": median(mine for mine, _ in rates),
                "baseline": median(other for _, other in rates),
            },
            "requests": len(requests) * (2 * rounds + 2 * _WARM_UP_ROUNDS + 2),
            "timings": latencies,
        }


@asynccontextmanager
async def running_engine(plan: EnginePlan, console: Console) -> AsyncIterator[EngineBench]:
    """Loads the plan's model and runs an engine on it while inside."""
    model = await in_own_thread(
        lambda: CausalLM.load(plan.model, dtype=plan.dtype, device=plan.device)
    )
    limits = EngineLimits(
        max_rows=plan.max_rows, max_queue=plan.workload.num_requests, prefill_tokens=1_024
    )
    engine = engine_factory(plan.engine)(model, UNEDITED, limits, plan.engine_options)
    await engine.start()
    try:
        yield EngineBench(plan, model, engine, console)
    finally:
        await engine.close()


async def in_own_thread(make: Callable[[], T]) -> T:
    """Calls `make` in a thread that ends: a worker pool left behind would slow the engine's own."""
    with ThreadPoolExecutor(1) as executor:
        return await asyncio.get_running_loop().run_in_executor(executor, make)
