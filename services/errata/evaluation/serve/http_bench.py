"""The suite `http`: the same greedy requests over HTTP and over gRPC to one system, by turns."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console

from errata.evaluation.serve.http_client import HttpClient, check_http_url
from errata.evaluation.serve.load_edits import counterfactual_edits
from errata.evaluation.serve.own_system import OwnSystem, own_system
from errata.evaluation.serve.report import quantiles_ms, suite_report
from errata.evaluation.serve.workload import Timings
from errata_client import AsyncClient

_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class HttpPlan:
    """What to run.

    Attributes:
        system: the one that is started.
        target: a running system to measure instead.
        http_url: of its HTTP API.
        rounds: alternations of the two APIs.
        requests: over each API in a round, once one by one and once in parallel.
        concurrency: requests in flight in the parallel part.
        max_tokens: of an answer.
    """

    system: OwnSystem
    target: str = ""
    http_url: str = ""
    rounds: int = 5
    requests: int = 96
    concurrency: int = 32
    max_tokens: int = 16


def run_http(plan: HttpPlan, *, console: Console) -> dict[str, Any]:
    """Runs the suite; see `suite_report` for what comes back.

    Raises:
        StartupError: the system did not start.
    """
    if plan.target:
        check_http_url(plan.http_url)
        return asyncio.run(_measure(plan, plan.target, plan.http_url, console))
    with own_system(plan.system, console) as box:
        return asyncio.run(_measure(plan, box.target, plan.http_url or box.http_url, console))


async def _measure(plan: HttpPlan, target: str, url: str, console: Console) -> dict[str, Any]:
    prompts = [str(spec.prompt) for spec in counterfactual_edits()]
    alone: dict[str, list[Timings]] = {"grpc": [], "http": []}
    parallel: dict[str, list[Timings]] = {"grpc": [], "http": []}
    async with (
        AsyncClient(target, timeout=_TIMEOUT_SECONDS) as grpc,
        HttpClient(url, _TIMEOUT_SECONDS) as http,
    ):
        clients: dict[str, AsyncClient | HttpClient] = {"grpc": grpc, "http": http}
        for client in clients.values():  # warm up
            await _round(client, prompts, plan, plan.concurrency)
        for number in range(plan.rounds):
            console.print(f"round {number + 1}/{plan.rounds} …")
            # The one that goes first changes with each round.
            for name in sorted(clients, reverse=bool(number % 2)):
                alone[name].append(await _round(clients[name], prompts, plan, 1))
                parallel[name].append(await _round(clients[name], prompts, plan, plan.concurrency))
    return _report(plan, alone, parallel)


async def _round(
    client: AsyncClient | HttpClient, prompts: Sequence[str], plan: HttpPlan, concurrency: int
) -> Timings:
    """Requests with a fixed number in flight; every second one is streamed."""
    timings, room = Timings(), asyncio.Semaphore(concurrency)

    async def one(number: int, prompt: str) -> None:
        async with room:
            begun = last = time.perf_counter()
            if number % 2:
                answer = await client.generate(prompt, max_tokens=plan.max_tokens)
                timings.num_tokens += answer.num_tokens
                timings.whole.append(time.perf_counter() - begun)
                return
            seen = 0
            async for chunk in client.stream(prompt, max_tokens=plan.max_tokens):
                now = time.perf_counter()
                new = chunk.num_tokens - seen
                if not seen:
                    timings.first.append(now - begun)
                elif new:
                    timings.between += [(now - last) / new] * new
                seen, last = chunk.num_tokens, now
            timings.num_tokens += seen

    begun = time.perf_counter()
    asked = itertools.islice(itertools.cycle(prompts), plan.requests)
    await asyncio.gather(*[one(number, prompt) for number, prompt in enumerate(asked)])
    timings.elapsed = time.perf_counter() - begun
    return timings


def _report(
    plan: HttpPlan, alone: dict[str, list[Timings]], parallel: dict[str, list[Timings]]
) -> dict[str, Any]:
    """Latencies are those of requests one by one; throughputs, those of parallel ones."""
    rates = {name: [t.tokens_per_second for t in found] for name, found in parallel.items()}
    whole = {name: [s for t in found for s in t.whole] for name, found in alone.items()}
    first = {name: [s for t in found for s in t.first] for name, found in alone.items()}
    pairs = zip(rates["http"], rates["grpc"], strict=True)
    return suite_report(
        "http",
        ratio=median(http / grpc for http, grpc in pairs),
        ours=median(rates["http"]),
        baseline=median(rates["grpc"]),
        first=first["http"],
        between=[s for t in alone["http"] for s in t.between],
        whole=whole["http"],
        requests=4 * plan.rounds * plan.requests,
        p50_ratio={
            "ttft": median(first["http"]) / median(first["grpc"]),
            "e2e": median(whole["http"]) / median(whole["grpc"]),
        },
        grpc={"ttft_ms": quantiles_ms(first["grpc"]), "e2e_ms": quantiles_ms(whole["grpc"])},
        parameters=asdict(plan),
    )
