"""Measures what TLS, authentication and the audit log cost, against a system without them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from rich.console import Console

from errata.evaluation.serve.client_rounds import ClientLoad, asked, compared
from errata.evaluation.serve.load_edits import counterfactual_edits
from errata.evaluation.serve.own_system import OwnSystem, own_system
from errata.evaluation.serve.report import quantiles_ms, suite_report
from errata.evaluation.serve.workload import Timings
from errata.launch.box import Box
from errata_client import AsyncClient

_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class SecurePlan:
    """What to run.

    Attributes:
        system: that is started twice, once secured.
        rounds: alternations of the two.
        requests: to each system in a round, once one by one and once in parallel.
        concurrency: requests in flight in the parallel part.
        edits: submitted to each system in a round, one by one.
        max_tokens: of an answer.
    """

    system: OwnSystem
    rounds: int = 5
    requests: int = 96
    concurrency: int = 32
    edits: int = 12
    max_tokens: int = 16


def run_secure(plan: SecurePlan, *, console: Console) -> dict[str, Any]:
    """Runs the suite; see `suite_report` for what comes back.

    Raises:
        StartupError: a system did not start.
    """
    with (
        own_system(plan.system, console) as plain,
        own_system(replace(plan.system, secure=True), console) as secure,
    ):
        return asyncio.run(_measure(plan, plain, secure, console))


async def _measure(plan: SecurePlan, plain: Box, secure: Box, console: Console) -> dict[str, Any]:
    specs = counterfactual_edits()
    prompts = [str(spec.prompt) for spec in specs]
    load = ClientLoad(plan.requests, plan.max_tokens)
    alone: dict[str, list[Timings]] = {"plain": [], "secure": []}
    parallel: dict[str, list[Timings]] = {"plain": [], "secure": []}
    accepted: dict[str, list[float]] = {"plain": [], "secure": []}
    async with _client(plain) as one, _client(secure) as other:
        clients = {"plain": one, "secure": other}
        for client in clients.values():  # warm up
            await asked(client, prompts, load, plan.concurrency)
        for number in range(plan.rounds):
            console.print(f"round {number + 1}/{plan.rounds} …")
            new = specs[number * plan.edits : (number + 1) * plan.edits]
            # The one that goes first changes with each round.
            for name in sorted(clients, reverse=bool(number % 2)):
                client = clients[name]
                alone[name].append(await asked(client, prompts, load, 1))
                parallel[name].append(await asked(client, prompts, load, plan.concurrency))
                for spec in new:
                    begun = time.perf_counter()
                    (edit,) = await client.submit_edits([spec])
                    accepted[name].append(time.perf_counter() - begun)
                    await client.wait_edits([edit.name])
    found = compared(alone, parallel, "secure", "plain")
    ratio = median(accepted["secure"]) / median(accepted["plain"])
    found["p50_ratio"]["accepted"] = ratio
    return suite_report(
        "secure",
        **found,
        requests=4 * plan.rounds * plan.requests,
        accepted_ms={name: quantiles_ms(times) for name, times in accepted.items()},
        parameters=asdict(plan),
    )


def _client(box: Box) -> AsyncClient:
    return AsyncClient(box.target, timeout=_TIMEOUT_SECONDS, credentials=box.credentials)
