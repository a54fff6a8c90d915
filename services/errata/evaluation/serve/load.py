"""The suite `load`: open-loop arrivals over gRPC or HTTP at N replicas while edits arrive.

Requests are sent when they are due, whatever is still in flight, and latencies count from that
time: a server that falls behind cannot hide it (no coordinated omission). Slices without and with
edits alternate, with the same arrivals and prompts, so that one run gives the ratio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from rich.console import Console

from errata.errors import UnknownLaneError
from errata.evaluation.serve.answers import Sample
from errata.evaluation.serve.http_client import HttpClient, check_http_url
from errata.evaluation.serve.load_edits import (
    PATIENCE_SECONDS,
    EditTimings,
    arriving_edits,
    counterfactual_edits,
)
from errata.evaluation.serve.load_plan import SLICES, Arrival, LoadPlan, arrivals
from errata.evaluation.serve.load_report import LoadSlice, load_figures
from errata.evaluation.serve.own_system import own_system
from errata.evaluation.serve.plots import require_matplotlib
from errata_client import AsyncClient, ErrataError

Asking = AsyncClient | HttpClient


def run_load(plan: LoadPlan, *, console: Console) -> dict[str, Any]:
    """Runs the suite; see `suite_report` for what comes back.

    Raises:
        StartupError: the system did not start, or matplotlib is not installed.
        UnknownLaneError: the system has no such lane.
    """
    require_matplotlib()
    if plan.target:
        if plan.api == "http":
            check_http_url(plan.http_url)
        return asyncio.run(_measure(plan, plan.target, plan.http_url, console))
    with own_system(plan.system, console) as box:
        return asyncio.run(_measure(plan, box.target, plan.http_url or box.http_url, console))


async def _measure(plan: LoadPlan, target: str, url: str, console: Console) -> dict[str, Any]:
    specs = counterfactual_edits()
    prompts = [str(spec.prompt) for spec in specs[::3]]
    edits = EditTimings(time.monotonic())
    to_edit = iter([spec for index, spec in enumerate(specs) if index % 3])
    async with (
        AsyncClient(target, timeout=PATIENCE_SECONDS) as client,
        _asking(plan, client, url) as asking,
    ):
        await _check_lane(client, plan.lane)
        for prompt in prompts[:8]:  # warm up
            await asking.generate(prompt, max_tokens=8)
        slices = []
        for number, edited in enumerate(SLICES):
            due = arrivals(plan, prompts, plan.seed + number // 2)
            console.print(
                f"slice {number + 1}/{len(SLICES)}: {len(due)} requests"
                f"{f', {plan.edit_rate:g} edits/s' if edited else ''} …"
            )
            with_edits = arriving_edits(plan, client, to_edit, edits) if edited else nullcontext()
            async with with_edits:
                slices.append(await _serve(asking, due, edits, edited))
        path = asking.path if isinstance(asking, HttpClient) else ""
    return {**load_figures(plan, slices, edits), "path": path}


async def _check_lane(client: AsyncClient, lane: str) -> None:
    names = [known.name for known in await client.lanes()]
    if lane and lane not in names:
        raise UnknownLaneError(
            f"there is no lane {lane!r}; choose one of {', '.join(names)}.", field="lane"
        )


def _asking(plan: LoadPlan, client: AsyncClient, url: str) -> AbstractAsyncContextManager[Asking]:
    """The client that asks: over HTTP one of its own, over gRPC the one that edits."""
    if plan.api == "http":
        return HttpClient(url, PATIENCE_SECONDS)
    return nullcontext(client)


async def _serve(
    client: Asking, due: Sequence[Arrival], edits: EditTimings, edited: bool
) -> LoadSlice:
    begun = time.monotonic()
    samples, tasks = [], []
    for arrival in due:
        await asyncio.sleep(begun + arrival.at - time.monotonic())
        sample = Sample(begun + arrival.at - edits.begun, arrival.streamed)
        samples.append(sample)
        tasks.append(asyncio.create_task(_ask(client, arrival, sample, edits, edited)))
    await asyncio.wait(tasks, timeout=2 * PATIENCE_SECONDS)
    for task in tasks:
        task.cancel()  # a request without answer or failure by now counts as lost
    return LoadSlice(edited, samples, time.monotonic() - begun)


async def _ask(
    client: Asking, arrival: Arrival, sample: Sample, edits: EditTimings, edited: bool
) -> None:
    prompt = arrival.prompt
    if edited and edits.newest is not None and arrival.asks_edited:
        sample.min_seq, spec = edits.newest
        prompt, sample.expected = str(spec.prompt), spec.target
    options: dict[str, Any] = {"min_seq": sample.min_seq, "max_tokens": arrival.max_tokens}
    try:
        if arrival.streamed:
            await _read(client, prompt, options, sample, edits.begun)
        else:
            answer = await client.generate(prompt, **options)
            sample.text, sample.num_tokens = answer.text, answer.num_tokens
            sample.provenances.append(answer.provenance)
    except ErrataError as error:
        sample.error = error.reason or error.code.name
    sample.ended = time.monotonic() - edits.begun


async def _read(
    client: Asking, prompt: str, options: dict[str, Any], sample: Sample, begun: float
) -> None:
    last = 0.0
    async for chunk in client.stream(prompt, **options):
        now = time.monotonic() - begun
        new = chunk.num_tokens - sample.num_tokens
        if sample.first is None:
            sample.first = now
        elif new:
            sample.between += [(now - last) / new] * new
        last, sample.num_tokens = now, chunk.num_tokens
        sample.text += chunk.text
        sample.provenances.append(chunk.provenance)
