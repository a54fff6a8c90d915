"""The suite `http`: the same greedy requests over HTTP and over gRPC to one system, by turns."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console

from errata.evaluation.serve.client_rounds import ClientLoad, asked
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
    load = ClientLoad(plan.requests, plan.max_tokens)
    alone: dict[str, list[Timings]] = {"grpc": [], "http": []}
    parallel: dict[str, list[Timings]] = {"grpc": [], "http": []}
    async with (
        AsyncClient(target, timeout=_TIMEOUT_SECONDS) as grpc,
        HttpClient(url, _TIMEOUT_SECONDS) as http,
    ):
        clients: dict[str, AsyncClient | HttpClient] = {"grpc": grpc, "http": http}
        for client in clients.values():  # warm up
            await asked(client, prompts, load, plan.concurrency)
        for number in range(plan.rounds):
            console.print(f"round {number + 1}/{plan.rounds} …")
            # The one that goes first changes with each round.
            for name in sorted(clients, reverse=bool(number % 2)):
                alone[name].append(await asked(clients[name], prompts, load, 1))
                parallel[name].append(await asked(clients[name], prompts, load, plan.concurrency))
    return _report(plan, alone, parallel)


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
