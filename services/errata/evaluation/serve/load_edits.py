"""Edits that arrive during a load run: submitted at a rate, watched until visible everywhere."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from errata import demo
from errata.evaluation.serve.load_plan import LoadPlan
from errata_client import AsyncClient, EditSpec, EditState

PATIENCE_SECONDS = 30.0
"""Timeout of one request, and of an edit to become visible."""
_POLL_SECONDS = 0.005


@dataclass(slots=True)
class EditTimings:
    """Outcomes of the edits; times are seconds, `commits` since `begun`.

    Attributes:
        begun: start of the run, by the monotonic clock.
        newest: commit_seq and edit of the newest commit.
        commits: times of the commits.
        first: from each commit until the first replica had it.
        all: from each commit until all replicas had it.
        rejected: number of rejected edits.
        late: number of commits that some replica did not have in time.
    """

    begun: float
    newest: tuple[int, EditSpec] | None = None
    commits: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)
    rejected: int = 0
    late: int = 0


def counterfactual_edits() -> list[EditSpec]:
    """Edits that contradict the demo corpus: each fact with the next fact's object."""
    corpus = demo.load_corpus()
    specs = []
    for name, relation in corpus.relations().items():
        facts = [fact for fact in corpus.facts() if fact.relation == name]
        for fact, other in itertools.pairwise(facts):
            if fact.object != other.object:
                prompt = demo.prompts(relation, fact.subject)[0]
                specs.append(EditSpec(prompt, other.object, fact.subject))
    random.Random(0).shuffle(specs)
    return specs


@asynccontextmanager
async def arriving_edits(
    plan: LoadPlan, client: AsyncClient, specs: Iterator[EditSpec], edits: EditTimings
) -> AsyncIterator[None]:
    """Submits edits at the plan's rate while inside, and records their outcomes in `edits`."""
    submitting = asyncio.create_task(_submit_at_rate(plan, client, specs, edits))
    try:
        yield
    finally:
        submitting.cancel()
        await asyncio.gather(submitting, return_exceptions=True)


async def _submit_at_rate(
    plan: LoadPlan, client: AsyncClient, specs: Iterator[EditSpec], edits: EditTimings
) -> None:
    """Submits edits at the plan's rate, whether or not earlier ones have settled."""
    rng = random.Random(plan.seed)
    watching: set[asyncio.Task[None]] = set()
    try:
        while plan.edit_rate and (spec := next(specs, None)) is not None:
            await asyncio.sleep(rng.expovariate(plan.edit_rate))
            task = asyncio.create_task(_watch(plan, client, spec, edits))
            watching.add(task)
            task.add_done_callback(watching.discard)
    finally:
        # Submitted edits are awaited: their visibility is measured.
        await asyncio.gather(*watching, return_exceptions=True)


async def _watch(plan: LoadPlan, client: AsyncClient, spec: EditSpec, edits: EditTimings) -> None:
    (accepted,) = await client.submit_edits([spec], lane=plan.lane)
    (edit,) = await client.wait_edits([accepted.name])
    if edit.state is not EditState.COMMITTED:
        edits.rejected += 1
        return
    edits.newest = max((edit.commit_seq, spec), edits.newest or (0, spec), key=lambda n: n[0])
    entry = await anext(client.entries(edit.commit_seq))
    first_seen = False
    while (age := (datetime.now(UTC) - entry.append_time).total_seconds()) < PATIENCE_SECONDS:
        positions = [replica.applied_seq for replica in await client.replicas()]
        age = (datetime.now(UTC) - entry.append_time).total_seconds()
        if not first_seen and max(positions) >= edit.commit_seq:
            first_seen = True
            edits.first.append(age)
            edits.commits.append(time.monotonic() - edits.begun - age)
        if min(positions) >= edit.commit_seq:
            edits.all.append(age)
            return
        await asyncio.sleep(_POLL_SECONDS)
    edits.late += 1
