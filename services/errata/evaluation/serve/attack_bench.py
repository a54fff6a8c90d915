"""Measures what an honest client notices of an attacker: its latencies beside him and without."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console

from errata.evaluation.serve.client_rounds import ClientLoad, asked, tokens_per_second
from errata.evaluation.serve.load_edits import counterfactual_edits
from errata.evaluation.serve.own_system import OwnSystem, own_system
from errata.evaluation.serve.report import p99_ms, quantiles_ms, suite_report
from errata.evaluation.serve.workload import Timings
from errata.launch.box import Box
from errata.launch.certs import DevelopmentCa, make_token
from errata.platform.settings import Settings
from errata_client import AsyncClient

_TIMEOUT_SECONDS = 120.0
_ATTACKER = "errata.evaluation.serve.attacker"


@dataclass(frozen=True, slots=True)
class AttackPlan:
    """What to run.

    Attributes:
        system: that is started, secured.
        rounds: alternations of with and without an attacker.
        requests: of the honest client in a half round.
        concurrency: of them in flight.
        max_tokens: of an answer.
    """

    system: OwnSystem
    rounds: int = 5
    requests: int = 96
    concurrency: int = 4
    max_tokens: int = 16


def run_attack(plan: AttackPlan, *, console: Console) -> dict[str, Any]:
    """Runs the suite; see `suite_report` for what comes back.

    Raises:
        StartupError: the system did not start.
    """
    with own_system(replace(plan.system, secure=True), console) as box:
        return asyncio.run(_measure(plan, box, console))


async def _measure(plan: AttackPlan, box: Box, console: Console) -> dict[str, Any]:
    prompts = [str(spec.prompt) for spec in counterfactual_edits()]
    load = ClientLoad(plan.requests, plan.max_tokens)
    found: dict[str, list[Timings]] = {"without": [], "beside": []}
    attacks: Counter[str] = Counter()
    async with AsyncClient(
        box.target, timeout=_TIMEOUT_SECONDS, credentials=box.credentials
    ) as client:
        await asked(client, prompts, load, plan.concurrency)  # warm up
        for number in range(plan.rounds):
            console.print(f"round {number + 1}/{plan.rounds} …")
            for name in sorted(found, reverse=bool(number % 2)):
                if name == "without":
                    found[name].append(await asked(client, prompts, load, plan.concurrency))
                    continue
                async with _attacker(box, attacks):
                    found[name].append(await asked(client, prompts, load, plan.concurrency))
    whole = {name: [s for t in rounds for s in t.whole] for name, rounds in found.items()}
    first = {name: [s for t in rounds for s in t.first] for name, rounds in found.items()}
    rates = {name: tokens_per_second(rounds) for name, rounds in found.items()}
    return suite_report(
        "attack",
        ratio=p99_ms(whole["beside"]) / p99_ms(whole["without"]),
        ours=rates["beside"],
        baseline=rates["without"],
        first=first["beside"],
        between=[s for t in found["beside"] for s in t.between],
        whole=whole["beside"],
        requests=2 * plan.rounds * plan.requests,
        p99_ratio={
            "ttft": p99_ms(first["beside"]) / p99_ms(first["without"]),
            "e2e": p99_ms(whole["beside"]) / p99_ms(whole["without"]),
        },
        without={
            "ttft_ms": quantiles_ms(first["without"]),
            "e2e_ms": quantiles_ms(whole["without"]),
        },
        attacks=dict(sorted(attacks.items())),
        parameters=asdict(plan),
    )


@asynccontextmanager
async def _attacker(box: Box, attacks: Counter[str]) -> AsyncIterator[None]:
    """Somebody with an editor's token attacks while inside; `attacks` counts what he was told."""
    settings: Settings = box.settings
    ca = DevelopmentCa(settings.data_dir / "security")
    token = make_token(ca, "attacker@example.org", ["reader", "editor"])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", _ATTACKER, box.target, str(ca.ca)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None, "a pipe was asked for"
    process.stdin.write(f"{token}\n".encode())
    await process.stdin.drain()
    try:
        yield
    finally:
        process.stdin.close()  # which ends it
        told, _ = await process.communicate()
    attacks.update(json.loads(told))
