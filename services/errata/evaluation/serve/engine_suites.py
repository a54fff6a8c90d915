"""Suites that measure the engine alone: ratios against a baseline, interleaved in one run.

Every round, the baseline's included, runs in the engine's own thread: a second thread's pool of
workers would slow whichever comes later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from typing import Any, TypeVar

import torch
from rich.console import Console

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.model.causal_lm import CausalLM
from errata.engine.engine import Engine
from errata.engine.limits import EngineLimits
from errata.engine.sequence import GenerationRequest, Request, Version
from errata.engine.serving_state import FunctionRouter, ServingState
from errata.errors import InvalidRequestError
from errata.evaluation.serve.report import report
from errata.evaluation.serve.routed import RoutedLane, routed_state
from errata.evaluation.serve.synthetic import adaple_state, mixed_plans
from errata.evaluation.serve.workload import Timings, Workload, in_words, run_round

T = TypeVar("T")
UNEDITED = ServingState(Version(0, bytes(32), "", 0))


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What to run.

    Attributes:
        model: folder or hub id.
        dtype: of the weights.
        device: torch device.
        rounds: how often ours and the baseline alternate.
        workload: the requests.
        num_edits: edits in force in the suite `unclaimed`.
        max_rows: rows of the running batch, and of the static batches.
        lane: for `routed`.
    """

    model: str
    dtype: str = "float32"
    device: str = "cpu"
    rounds: int = 5
    workload: Workload = field(default_factory=Workload)
    num_edits: int = 10_000
    max_rows: int = 32
    lane: RoutedLane | None = None


Round = Callable[[], Awaitable[Timings]]


def run_baseline(plan: EnginePlan, *, console: Console) -> dict[str, Any]:
    """Against `generate` of transformers in static batches, mixed and equal lengths."""
    return _reported(plan, "baseline", asyncio.run(_with_engine(plan, _baseline, console)))


def run_mixed(plan: EnginePlan, *, console: Console) -> dict[str, Any]:
    """A quarter each of prefix, mixture, expert and none, against the same with hooks off."""
    return _reported(plan, "mixed", asyncio.run(_with_engine(plan, _mixed, console)))


def run_unclaimed(plan: EnginePlan, *, console: Console) -> dict[str, Any]:
    """Requests that no edit claims, with many edits in force, against the unedited model."""
    return _reported(plan, "unclaimed", asyncio.run(_with_engine(plan, _unclaimed, console)))


def run_routed(plan: EnginePlan, *, console: Console) -> dict[str, Any]:
    """A lane that routes claims every request, or none, against the unedited model.

    Raises:
        InvalidRequestError: no lane was given, or one that does not route.
    """
    return _reported(plan, "routed", asyncio.run(_with_engine(plan, _routed, console)))


def _reported(plan: EnginePlan, suite: str, found: dict[str, Any]) -> dict[str, Any]:
    timings: Timings = found.pop("timings")
    rate = found.pop("tokens_per_second")
    return report(
        suite,
        ours=rate["ours"],
        baseline=rate["baseline"],
        first=timings.first,
        between=timings.between,
        whole=timings.whole,
        **found,
        parameters={
            "model": plan.model.rstrip("/").rpartition("/")[2],
            "dtype": plan.dtype,
            "device": plan.device,
            "rounds": plan.rounds,
            "max_rows": plan.max_rows,
            **asdict(plan.workload),
        },
    )


async def _with_engine(
    plan: EnginePlan,
    suite: Callable[[EnginePlan, CausalLM, Engine, Console], Awaitable[dict[str, Any]]],
    console: Console,
) -> dict[str, Any]:
    model = await _in_a_thread_that_ends(
        lambda: CausalLM.load(plan.model, dtype=plan.dtype, device=plan.device)
    )
    limits = EngineLimits(
        max_rows=plan.max_rows, max_queue=plan.workload.num_requests, prefill_tokens=1_024
    )
    engine = Engine(model, UNEDITED, limits)
    engine.start()
    try:
        return await suite(plan, model, engine, console)
    finally:
        await asyncio.to_thread(engine.close)


async def _in_a_thread_that_ends(make: Callable[[], T]) -> T:
    """A pool of workers that is still there would slow the engine's own."""
    with ThreadPoolExecutor(1) as executor:
        return await asyncio.get_running_loop().run_in_executor(executor, make)


async def _baseline(
    plan: EnginePlan, model: CausalLM, engine: Engine, console: Console
) -> dict[str, Any]:
    size = plan.workload.concurrency
    equal = Workload(
        num_requests=2 * size,
        concurrency=size,
        prompt_tokens=(16, 16),
        new_tokens=(64, 64),
        seed=plan.workload.seed,
    )
    found = {}
    for name, workload in (("equal", equal), ("mixed", plan.workload)):
        requests = workload.requests(len(model.tokenizer), model.max_positions)
        found[name] = await _compare(
            plan,
            engine,
            requests,
            partial(run_round, engine, requests, size, streaming=False),
            partial(_static, engine, model, requests, plan.max_rows),
            console,
            name,
        )
    del found["equal"]["timings"]
    return {**found["mixed"], "equal_lengths": found["equal"]}


async def _static(
    engine: Engine, model: CausalLM, requests: Sequence[GenerationRequest], size: int
) -> Timings:
    """`generate` with batches in order of arrival, padded on the left, each to its longest."""

    def run() -> ServingState:
        hf: Any = model.model
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            width = max(len(request.prompt_ids) for request in batch)
            longest = max(request.max_tokens for request in batch)
            padding = [width - len(request.prompt_ids) for request in batch]
            ids = [
                [*[model.pad_id] * pad, *request.prompt_ids]
                for pad, request in zip(padding, batch, strict=True)
            ]
            mask = [[0] * pad + [1] * (width - pad) for pad in padding]
            hf.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=longest,
                min_new_tokens=longest,
                do_sample=False,
                pad_token_id=model.pad_id,
            )
        return UNEDITED

    timings = Timings(num_tokens=sum(request.max_tokens for request in requests))
    begun = asyncio.get_running_loop().time()
    await engine.change(run, alters_weights=False)
    timings.elapsed = asyncio.get_running_loop().time() - begun
    return timings


async def _mixed(
    plan: EnginePlan, model: CausalLM, engine: Engine, console: Console
) -> dict[str, Any]:
    requests = plan.workload.requests(len(model.tokenizer), model.max_positions - 4)
    plans = await _in_a_thread_that_ends(
        lambda: mixed_plans(model, [request.prompt_ids for request in requests])
    )

    def route(requests: Sequence[Request]) -> list[RowPlan]:
        return [plans.get(request.prompt_ids, BASE) for request in requests]

    serving = ServingState(UNEDITED.version, router=FunctionRouter(route))
    await engine.change(lambda: serving, alters_weights=False)

    async def one(enabled: bool) -> Timings:
        engine.hooks.enabled = enabled
        return await run_round(engine, requests, plan.workload.concurrency, streaming=False)

    try:
        return await _compare(
            plan, engine, requests, lambda: one(True), lambda: one(False), console, "mixed"
        )
    finally:
        engine.hooks.enabled = True


async def _unclaimed(
    plan: EnginePlan, model: CausalLM, engine: Engine, console: Console
) -> dict[str, Any]:
    requests = plan.workload.requests(len(model.tokenizer), model.max_positions)
    base = model.down_weights()
    serving = await _in_a_thread_that_ends(lambda: adaple_state(model, plan.num_edits))
    edited = model.down_weights()

    async def one(weights: list[torch.Tensor], wanted: ServingState) -> Timings:
        def swap() -> ServingState:
            model.use_down_weights(weights)
            return wanted

        await engine.change(swap, alters_weights=True)
        return await run_round(engine, requests, plan.workload.concurrency, streaming=False)

    found = await _compare(
        plan,
        engine,
        requests,
        lambda: one(edited, serving),
        lambda: one(base, UNEDITED),
        console,
        "unclaimed",
    )
    return {**found, "edits_in_force": plan.num_edits}


async def _routed(
    plan: EnginePlan, model: CausalLM, engine: Engine, console: Console
) -> dict[str, Any]:
    lane = plan.lane
    if lane is None:
        raise InvalidRequestError("suite routed needs a lane.", field="method")
    requests = in_words(
        model, plan.workload.requests(len(model.tokenizer), model.max_positions - 64)
    )

    async def one(serving: ServingState) -> Timings:
        await engine.change(lambda: serving, alters_weights=False)
        return await run_round(engine, requests, plan.workload.concurrency, streaming=False)

    found = {}
    for name, claimed in (("claimed", True), ("unclaimed", False)):
        serving = await _in_a_thread_that_ends(partial(routed_state, model, lane, claimed=claimed))
        found[name] = await _compare(
            plan, engine, requests, partial(one, serving), partial(one, UNEDITED), console, name
        )
    del found["unclaimed"]["timings"]
    more = {"unclaimed": found["unclaimed"], "edits_in_force": lane.num_edits}
    more |= {"method": lane.method, "config": dict(lane.values)}
    return {**found["claimed"], **more}


async def _compare(
    plan: EnginePlan,
    engine: Engine,
    requests: Sequence[GenerationRequest],
    ours: Round,
    baseline: Round,
    console: Console,
    name: str,
) -> dict[str, Any]:
    """Alternates ours and the baseline after two rounds each to warm up."""
    for _ in range(2):
        await ours()
        await baseline()
    rates: list[tuple[float, float]] = []
    for number in range(plan.rounds):
        first = (await ours()).tokens_per_second
        rates.append((first, (await baseline()).tokens_per_second))
        console.print(
            f"{name} {number + 1}/{plan.rounds}: ours {rates[-1][0]:,.0f} tokens/s, "
            f"baseline {rates[-1][1]:,.0f}"
        )
    await ours()  # the state of ours, whatever the baseline left
    latencies = await run_round(engine, requests, plan.workload.concurrency, streaming=True)
    ratios = sorted(mine / other for mine, other in rates)
    return {
        "ratio": median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
        "tokens_per_second": {
            "ours": median(mine for mine, _ in rates),
            "baseline": median(other for _, other in rates),
        },
        "requests": len(requests) * (2 * plan.rounds + 6),
        "timings": latencies,
    }
