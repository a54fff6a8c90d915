"""Measures what TLS, authentication and the audit log cost, against a system without them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from rich.console import Console

from errata.evaluation.serve.client_rounds import ClientLoad, asked
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
    edits: int = 3
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
    return _report(plan, alone, parallel, accepted)


def _client(box: Box) -> AsyncClient:
    return AsyncClient(box.target, timeout=_TIMEOUT_SECONDS, credentials=box.credentials)


def _report(
    plan: SecurePlan,
    alone: Mapping[str, Sequence[Timings]],
    parallel: Mapping[str, Sequence[Timings]],
    accepted: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Latencies are those of requests one by one; throughputs, those of parallel ones."""
    rates = {name: [t.tokens_per_second for t in found] for name, found in parallel.items()}
    whole = {name: [s for t in found for s in t.whole] for name, found in alone.items()}
    first = {name: [s for t in found for s in t.first] for name, found in alone.items()}
    pairs = zip(rates["secure"], rates["plain"], strict=True)
    return suite_report(
        "secure",
        ratio=median(mine / other for mine, other in pairs),
        ours=median(rates["secure"]),
        baseline=median(rates["plain"]),
        first=first["secure"],
        between=[s for t in alone["secure"] for s in t.between],
        whole=whole["secure"],
        requests=4 * plan.rounds * plan.requests,
        p50_ratio={
            "ttft": median(first["secure"]) / median(first["plain"]),
            "e2e": median(whole["secure"]) / median(whole["plain"]),
            "accepted": median(accepted["secure"]) / median(accepted["plain"]),
        },
        accepted_ms={name: quantiles_ms(found) for name, found in accepted.items()},
        plain={"ttft_ms": quantiles_ms(first["plain"]), "e2e_ms": quantiles_ms(whole["plain"])},
        parameters=asdict(plan),
    )
