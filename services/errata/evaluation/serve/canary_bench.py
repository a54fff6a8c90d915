"""The suite `canary`: what an open canary costs, and whether requests are in it as they should be.

Rounds of the same requests alternate between a system with an open canary and the same without.
Then many keys ask twice: the share of them that is in a canary of 10 %, and how many are in it on
one replica and not on the other, which must be none.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from errata.evaluation.serve.client_rounds import ClientLoad, asked, compared
from errata.evaluation.serve.load_edits import counterfactual_edits
from errata.evaluation.serve.own_system import OwnSystem, own_system
from errata.evaluation.serve.report import suite_report
from errata.evaluation.serve.workload import Timings
from errata_client import AsyncClient, Provenance

_TIMEOUT_SECONDS = 120.0
_SHARE = 0.1
_NAMES = {True: "open", False: "none"}


@dataclass(frozen=True, slots=True)
class CanaryPlan:
    """What to run.

    Attributes:
        system: that is started.
        keys: ask twice each.
        lane: takes the edits.
        rounds: alternations of with and without an open canary.
        requests: of a half round.
        concurrency: of requests in flight.
        max_tokens: of an answer.
    """

    system: OwnSystem
    keys: int = 10_000
    lane: str = "lanes/facts"
    rounds: int = 5
    requests: int = 96
    concurrency: int = 32
    max_tokens: int = 16


def run_canary(plan: CanaryPlan, *, console: Console) -> dict[str, Any]:
    """Runs the suite; see `suite_report` for what comes back.

    Raises:
        StartupError: the system did not start.
    """
    with own_system(plan.system, console) as box:
        return asyncio.run(_measure(plan, box.target, console))


async def _measure(plan: CanaryPlan, target: str, console: Console) -> dict[str, Any]:
    specs = counterfactual_edits()
    prompts, load = [str(spec.prompt) for spec in specs], ClientLoad(plan.requests, plan.max_tokens)
    alone: dict[str, list[Timings]] = defaultdict(list)
    parallel: dict[str, list[Timings]] = defaultdict(list)
    async with AsyncClient(target, timeout=_TIMEOUT_SECONDS) as client:
        asks = specs[0]
        await client.edit(asks.prompt, specs[1].target, subject=asks.subject, lane=plan.lane)
        await asked(client, prompts, load, plan.concurrency)  # warm up
        for number in range(plan.rounds):
            for is_open in (True, False) if number % 2 else (False, True):
                console.print(f"round {number + 1}/{plan.rounds}, canary {_NAMES[is_open]} …")
                if is_open:
                    await _open(client, plan, f"canaries/round-{number}")
                alone[_NAMES[is_open]].append(await asked(client, prompts, load, 1))
                found = await asked(client, prompts, load, plan.concurrency)
                parallel[_NAMES[is_open]].append(found)
                if is_open:
                    await client.roll_back_canary(f"canaries/round-{number}")
        await _open(client, plan, "canaries/keys")
        console.print(f"{plan.keys:,} keys, twice …")
        told = await _decisions(client, str(asks.prompt), plan)
    return suite_report(
        "canary",
        **compared(alone, parallel, "open", "none"),
        requests=4 * plan.rounds * plan.requests + 2 * plan.keys,
        keys=key_figures(told),
        parameters=asdict(plan),
    )


async def _open(client: AsyncClient, plan: CanaryPlan, name: str) -> None:
    """Opens a canary with an edit that supersedes one in force."""
    spec = counterfactual_edits()[0]
    await client.set_canary(name, _SHARE, lane=plan.lane)
    await client.edit(spec.prompt, spec.target, subject=spec.subject, lane=plan.lane, canary=name)


async def _decisions(client: AsyncClient, prompt: str, plan: CanaryPlan) -> list[list[Provenance]]:
    """For each key, the provenance of two answers."""
    room = asyncio.Semaphore(plan.concurrency)

    async def one(key: str) -> Provenance:
        async with room:
            answer = await client.generate(prompt, max_tokens=1, canary_key=key)
            return answer.provenance

    keys = [f"user-{number}" for number in range(plan.keys)]
    # Not one after the other, so that a key is likely to meet both replicas.
    first = await asyncio.gather(*map(one, keys))
    second = await asyncio.gather(*map(one, keys))
    return [list(pair) for pair in zip(first, second, strict=True)]


def key_figures(told: Sequence[Sequence[Provenance]]) -> dict[str, Any]:
    """Share, flips and replicas of keys that asked several times.

    Args:
        told: for each key, the provenance of its answers.
    """
    inside = [[bool(each.canaries) for each in answers] for answers in told]
    replicas = Counter(each.replica for each in itertools.chain.from_iterable(told))
    return {
        "keys": len(told),
        "share": sum(map(all, inside)) / len(told),
        "flips": sum(len(set(each)) > 1 for each in inside),
        "on_several_replicas": sum(len({each.replica for each in row}) > 1 for row in told),
        "answers_by_replica": sorted(replicas.values()),
    }
