"""Suites that measure the engine alone, each against a baseline in the same run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from rich.console import Console

from errata.editing.effects.plan import BASE, RowPlan
from errata.engine.engine import Engine
from errata.engine.sequence import GenerationRequest, Request
from errata.engine.serving_state import FunctionRouter, ServingState
from errata.errors import InvalidRequestError
from errata.evaluation.serve.engine_bench import (
    UNEDITED,
    EngineBench,
    EnginePlan,
    in_own_thread,
    running_engine,
)
from errata.evaluation.serve.report import suite_report
from errata.evaluation.serve.routed import routed_state
from errata.evaluation.serve.synthetic import adaple_state, mixed_plans
from errata.evaluation.serve.workload import Timings, Workload, in_words


def run(suite: str, plan: EnginePlan, *, console: Console) -> dict[str, Any]:
    """Runs a suite.

    Args:
        suite: `baseline`, `mixed`, `unclaimed` or `routed`.
        plan: what to run.
        console: shows progress.

    Returns:
        JSON as `suite_report` describes it.

    Raises:
        InvalidRequestError: `routed` without a lane, or with one that does not route.
    """
    found = asyncio.run(_measure(_SUITES[suite], plan, console))
    timings: Timings = found.pop("timings")
    rate = found.pop("tokens_per_second")
    return suite_report(
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
            "engine": plan.engine,
            **asdict(plan.workload),
        },
    )


async def _measure(
    suite: Callable[[EngineBench], Awaitable[dict[str, Any]]], plan: EnginePlan, console: Console
) -> dict[str, Any]:
    async with running_engine(plan, console) as bench:
        return await suite(bench)


async def _baseline(bench: EngineBench) -> dict[str, Any]:
    """Against `generate` of transformers in static batches, with mixed and with equal lengths."""
    size = bench.plan.workload.concurrency
    equal = Workload(
        num_requests=2 * size,
        concurrency=size,
        prompt_tokens=(16, 16),
        new_tokens=(64, 64),
        seed=bench.plan.workload.seed,
    )
    found = {}
    for name, workload in (("equal", equal), ("mixed", bench.plan.workload)):
        requests = workload.requests(len(bench.model.tokenizer), bench.model.max_positions)
        found[name] = await bench.compare(
            name, requests, partial(bench.round, requests), partial(_static, bench, requests)
        )
    del found["equal"]["timings"]
    return {**found["mixed"], "equal_lengths": found["equal"]}


async def _static(bench: EngineBench, requests: Sequence[GenerationRequest]) -> Timings:
    """`generate` with batches in order of arrival, padded on the left, each to its longest."""

    def generate() -> ServingState:
        for start in range(0, len(requests), bench.plan.max_rows):
            _generate_batch(bench, requests[start : start + bench.plan.max_rows])
        return UNEDITED

    timings = Timings(num_tokens=sum(request.max_tokens for request in requests))
    begun = asyncio.get_running_loop().time()
    await bench.engine.change(generate, alters_weights=False)
    timings.elapsed = asyncio.get_running_loop().time() - begun
    return timings


def _generate_batch(bench: EngineBench, batch: Sequence[GenerationRequest]) -> None:
    model = bench.model
    hf: Any = model.model
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


async def _mixed(bench: EngineBench) -> dict[str, Any]:
    """A quarter each of prefix, mixture, expert and none, against the same with hooks off.

    An engine that another package brings is compared with the same requests without plans, whose
    prompts are shorter by the positions of prefixes.
    """
    requests, engine = bench.requests(reserved=4), bench.engine
    plans = await in_own_thread(
        lambda: mixed_plans(bench.model, [request.prompt_ids for request in requests])
    )

    def route(requests: Sequence[Request]) -> list[RowPlan]:
        return [plans.get(request.prompt_ids, BASE) for request in requests]

    serving = ServingState(UNEDITED.version, router=FunctionRouter(route))
    await engine.change(lambda: serving, alters_weights=False)

    async def one(enabled: bool) -> Timings:
        if isinstance(engine, Engine):
            engine.hooks.enabled = enabled
        else:
            await engine.change(lambda: serving if enabled else UNEDITED, alters_weights=False)
        return await bench.round(requests)

    return await bench.compare("mixed", requests, partial(one, True), partial(one, False))


async def _unclaimed(bench: EngineBench) -> dict[str, Any]:
    """Requests that no edit claims, with many active edits, against the unedited model."""
    requests, model = bench.requests(), bench.model
    base = model.down_weights()
    serving = await in_own_thread(lambda: adaple_state(model, bench.plan.num_edits))
    edited = model.down_weights()

    async def one(weights: list[torch.Tensor], wanted: ServingState) -> Timings:
        def swap() -> ServingState:
            model.use_down_weights(weights)
            return wanted

        await bench.engine.change(swap, alters_weights=True)
        return await bench.round(requests)

    ours, unedited = partial(one, edited, serving), partial(one, base, UNEDITED)
    found = await bench.compare("unclaimed", requests, ours, unedited)
    return {**found, "edits_in_force": bench.plan.num_edits}


async def _routed(bench: EngineBench) -> dict[str, Any]:
    """A lane that claims every request, or none, against the unedited model."""
    lane = bench.plan.lane
    if lane is None:
        raise InvalidRequestError("suite routed needs a lane.", field="method")
    requests = in_words(bench.model, bench.requests(reserved=64))

    async def one(serving: ServingState) -> Timings:
        await bench.engine.change(lambda: serving, alters_weights=False)
        return await bench.round(requests)

    found = {}
    for name, claimed in (("claimed", True), ("unclaimed", False)):
        serving = await in_own_thread(partial(routed_state, bench.model, lane, claimed=claimed))
        found[name] = await bench.compare(
            name, requests, partial(one, serving), partial(one, UNEDITED)
        )
    del found["unclaimed"]["timings"]
    more = {"unclaimed": found["unclaimed"], "edits_in_force": lane.num_edits}
    more |= {"method": lane.method, "config": dict(lane.values)}
    return {**found["claimed"], **more}


_SUITES: Mapping[str, Callable[[EngineBench], Awaitable[dict[str, Any]]]] = {
    "baseline": _baseline,
    "mixed": _mixed,
    "unclaimed": _unclaimed,
    "routed": _routed,
}
