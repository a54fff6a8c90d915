"""The suite `import`: latencies of a client while a file of edits is imported, killed and resumed.

Rounds of the same requests, a fixed number in flight, first without an import and then beside it.
Half way the importing process is killed and started again. In the end every row must be exactly
one edit of the log, and committed.
"""

from __future__ import annotations

import asyncio
import csv
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from errata import demo
from errata.errors import StartupError
from errata.evaluation.serve.client_rounds import ClientLoad, asked, tokens_per_second
from errata.evaluation.serve.load_edits import counterfactual_edits
from errata.evaluation.serve.own_system import OwnSystem, own_system
from errata.evaluation.serve.report import p99_ms, quantiles_ms, suite_report
from errata.evaluation.serve.workload import Timings
from errata.launch.box import Box
from errata_client import AsyncClient

_TIMEOUT_SECONDS = 120.0
_POLL_SECONDS = 0.5
_SOURCE = "errata bench serve --suite import"


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What to run.

    Attributes:
        system: that is started.
        rows: of the file.
        lane: takes them.
        rounds: of requests without an import.
        requests: of a round.
        concurrency: of them in flight.
        max_tokens: of an answer.
    """

    system: OwnSystem
    rows: int = 10_000
    lane: str = "lanes/facts"
    rounds: int = 5
    requests: int = 96
    concurrency: int = 4
    max_tokens: int = 16


def run_import(plan: ImportPlan, *, console: Console) -> dict[str, Any]:
    """Runs the suite; see `suite_report` for what comes back.

    Raises:
        StartupError: the system did not start, or the import ended with an error of its own.
    """
    with own_system(plan.system, console) as box:
        return asyncio.run(_measure(plan, box, console))


async def _measure(plan: ImportPlan, box: Box, console: Console) -> dict[str, Any]:
    prompts = [str(spec.prompt) for spec in counterfactual_edits()]
    load = ClientLoad(plan.requests, plan.max_tokens)
    file = box.settings.data_dir / "rows.csv"
    await asyncio.to_thread(write_rows, file, plan.rows)
    async with AsyncClient(box.target, timeout=_TIMEOUT_SECONDS) as client:
        await asked(client, prompts, load, plan.concurrency)  # warm up
        console.print("without an import …")
        without = [await asked(client, prompts, load, plan.concurrency) for _ in range(plan.rounds)]
        console.print(f"beside an import of {plan.rows:,} rows …")
        begun = time.perf_counter()
        importing = asyncio.create_task(_imported(plan, client, box.target, file))
        beside = []
        while not importing.done():
            beside.append(await asked(client, prompts, load, plan.concurrency))
        killed_at = await importing
        seconds = time.perf_counter() - begun
        states = await _states(client, plan.lane)
    return import_figures(plan, without, beside, seconds, killed_at, states)


def write_rows(file: Path, rows: int) -> None:
    """Writes corrections about names that nobody has; each has a prompt of its own."""
    corpus = demo.load_corpus()
    name, relation = next(iter(corpus.relations().items()))
    answers = sorted({fact.object for fact in corpus.facts() if fact.relation == name})
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(("prompt", "target", "subject", "source"))
        for number in range(rows):
            subject = f"Zz{number:06d}"
            target = answers[number % len(answers)]
            writer.writerow((demo.prompts(relation, subject)[0], target, subject, _SOURCE))


async def _imported(plan: ImportPlan, client: AsyncClient, target: str, file: Path) -> int:
    """Imports the file in two runs, of which the first is killed; returns at how many edits.

    Raises:
        StartupError: a run ended with another status.
    """
    async with _importing(plan, target, file) as first:
        while (held := await _num_edits(client, plan.lane)) < plan.rows // 2:
            if first.returncode is not None:
                raise StartupError(
                    f"the import ended with status {first.returncode} before it could be killed; "
                    "give more rows."
                )
            await asyncio.sleep(_POLL_SECONDS)
        first.kill()
        await first.wait()
    async with _importing(plan, target, file) as second:
        # Status 1: the model does not answer with every row, which its report tells apart.
        if await second.wait() not in (0, 1):
            raise StartupError(f"the import ended with status {second.returncode}.")
    return held


@asynccontextmanager
async def _importing(
    plan: ImportPlan, target: str, file: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "errata.cli", "import", str(file)),
        *("--lane", plan.lane, "--target", target),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _num_edits(client: AsyncClient, lane: str) -> int:
    return next(known.sizes["edits"] for known in await client.lanes() if known.name == lane)


async def _states(client: AsyncClient, lane: str) -> dict[str, Counter[str]]:
    """Prompt → how many edits with it have which state."""
    found: dict[str, Counter[str]] = {}
    async for edit in client.list_edits(lane=lane):
        if edit.spec.source == _SOURCE:
            found.setdefault(str(edit.spec.prompt), Counter())[edit.state.name.lower()] += 1
    return found


def import_figures(
    plan: ImportPlan,
    without: Sequence[Timings],
    beside: Sequence[Timings],
    seconds: float,
    killed_at: int,
    states: dict[str, Counter[str]],
) -> dict[str, Any]:
    """The suite's result.

    Args:
        plan: what was run.
        without: rounds without an import.
        beside: rounds beside it.
        seconds: from the import's start to its end, with the restart.
        killed_at: edits in force when its process was killed.
        states: prompt → how many edits with it have which state.
    """
    whole = {
        "without": [s for t in without for s in t.whole],
        "beside": [s for t in beside for s in t.whole],
    }
    first = {
        "without": [s for t in without for s in t.first],
        "beside": [s for t in beside for s in t.first],
    }
    total = sum(states.values(), Counter())
    return suite_report(
        "import",
        ratio=p99_ms(whole["beside"]) / p99_ms(whole["without"]),
        ours=tokens_per_second(beside),
        baseline=tokens_per_second(without),
        first=first["beside"],
        between=[s for t in beside for s in t.between],
        whole=whole["beside"],
        requests=plan.requests * (len(without) + len(beside)),
        without={
            "ttft_ms": quantiles_ms(first["without"]),
            "e2e_ms": quantiles_ms(whole["without"]),
        },
        rows={
            "rows_per_second": plan.rows / seconds,
            "killed_at": killed_at,
            "lost": plan.rows - len(states),
            "repeated": sum(sum(found.values()) > 1 for found in states.values()),
            "states": dict(sorted(total.items())),
        },
        parameters=asdict(plan),
    )
