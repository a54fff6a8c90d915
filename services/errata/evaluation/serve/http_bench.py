"""The suite `http`: the same greedy requests over HTTP and over gRPC to one system, by turns."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from errata.evaluation.serve.client_rounds import ClientLoad, asked, compared
from errata.evaluation.serve.http_client import HttpClient, check_http_url
from errata.evaluation.serve.load_edits import counterfactual_edits
from errata.evaluation.serve.own_system import OwnSystem, own_system
from errata.evaluation.serve.report import suite_report
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
    return suite_report(
        "http",
        **compared(alone, parallel, "http", "grpc"),
        requests=4 * plan.rounds * plan.requests,
        parameters=asdict(plan),
    )
