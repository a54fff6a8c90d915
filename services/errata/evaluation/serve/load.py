"""The suite `load`: open-loop arrivals over gRPC against N replicas while edits come in.

Requests are sent when their time has come, whatever is still under way, and latencies count from
that time: a server that falls behind cannot hide it (no coordinated omission). Slices without and
with edits alternate, with the same arrivals and prompts, so that one run gives the ratio.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from errata import demo
from errata.evaluation.serve.answers import Sample, count_mixed, count_stale, count_wrong
from errata.evaluation.serve.plots import plot_load
from errata.evaluation.serve.report import report
from errata.launch.box import Box, free_addresses
from errata.launch.progress import Steps
from errata_client import AsyncClient, EditSpec, EditState, ErrataError

_SLICES = (False, True, False, True)  # with edits?
_POLL_SECONDS = 0.005
_PATIENCE_SECONDS = 30.0  # of one request, and of an edit to become visible
_ASK_EDITED = 0.25  # share of requests that ask what was just edited
_EDITED_TOKENS = 12  # enough for any target of the corpus


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to run.

    Attributes:
        out: folder for the plot.
        model: folder or hub id; the demo model if empty.
        statistics_text: for the writer, if the model is another than the demo's.
        target: a running system to be loaded; one is started if empty.
        lane: that edits go to; the default lane if empty.
        retrieval: whether the system that is started has a retrieval service, which workers ask.
        replicas: of the system that is started.
        rate: requests per second, Poisson.
        edit_rate: edits per second in the slices that have them.
        seconds: of all slices together.
        max_requests: of all slices together.
        streaming_share: share of streamed requests.
        max_tokens: fewest and most new tokens of a request.
        ttft_limit_ms: to the first token, for goodput.
        e2e_limit_ms: to the end of the answer, for goodput.
        seed: of arrivals, prompts and lengths.
    """

    out: Path
    model: str = ""
    statistics_text: Path | None = None
    target: str = ""
    lane: str = ""
    retrieval: bool = False
    replicas: int = 2
    rate: float = 8.0
    edit_rate: float = 0.5
    seconds: float = 40.0
    max_requests: int = 10_000
    streaming_share: float = 0.5
    max_tokens: tuple[int, int] = (4, 32)
    ttft_limit_ms: float = 500.0
    e2e_limit_ms: float = 2_000.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that is to come: `at` seconds into its slice."""

    at: float
    prompt: str
    max_tokens: int
    streamed: bool
    asks_edited: bool


@dataclass(slots=True)
class _Slice:
    """What one slice yielded."""

    edited: bool
    samples: list[Sample]
    elapsed: float


@dataclass(slots=True)
class _Edits:
    """What became of the edits, in seconds since the start where it is a time."""

    begun: float
    newest: tuple[int, EditSpec] | None = None  # commit_seq and edit
    commits: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)
    rejected: int = 0
    late: int = 0


def arrivals(plan: LoadPlan, prompts: Sequence[str], seed: int) -> list[Arrival]:
    """A slice's requests, decided beforehand: Poisson at `plan.rate`, the same for one seed."""
    rng = random.Random(seed)
    seconds = plan.seconds / len(_SLICES)
    found: list[Arrival] = []
    at = rng.expovariate(plan.rate)
    while at < seconds and len(found) < plan.max_requests // len(_SLICES):
        streamed, asks_edited = rng.random() < plan.streaming_share, rng.random() < _ASK_EDITED
        # In slices without edits those ask something else, but for as many tokens.
        wanted = _EDITED_TOKENS if asks_edited else rng.randint(*plan.max_tokens)
        found.append(Arrival(at, rng.choice(prompts), wanted, streamed, asks_edited))
        at += rng.expovariate(plan.rate)
    return found


def run_load(plan: LoadPlan, *, console: Console) -> dict[str, Any]:
    """Runs the suite; see `report` for what comes back.

    Raises:
        StartupError: the system did not start.
    """
    with tempfile.TemporaryDirectory(prefix="errata-load-") as folder:
        flags: dict[str, Any] = {
            "data_dir": Path(folder),
            "worker": {"num_replicas": plan.replicas},
            "model": {"path": plan.model or None},
            "writer": {"statistics_text": plan.statistics_text},
        }
        for name, address in free_addresses().items():
            flags[name] = {**flags.get(name, {}), **address}
        if plan.retrieval:
            flags["worker"]["retrieval_address"] = flags["retrieval"]["address"]
        box = Box(flags, steps=Steps(console))
        with nullcontext() if plan.target else box:
            return asyncio.run(_measure(plan, plan.target or box.target, console))


async def _measure(plan: LoadPlan, target: str, console: Console) -> dict[str, Any]:
    specs = facts_turned_round()
    prompts = [spec.prompt for spec in specs[::3]]
    edits = _Edits(time.monotonic())
    to_edit = iter([spec for index, spec in enumerate(specs) if index % 3])
    async with AsyncClient(target, timeout=_PATIENCE_SECONDS) as client:
        for prompt in prompts[:8]:  # warm up
            await client.generate(prompt, max_tokens=8)
        slices = []
        for number, edited in enumerate(_SLICES):
            due = arrivals(plan, prompts, plan.seed + number // 2)
            console.print(
                f"slice {number + 1}/{len(_SLICES)}: {len(due)} requests"
                f"{f', {plan.edit_rate:g} edits/s' if edited else ''} …"
            )
            writing = asyncio.create_task(_edit(plan, client, to_edit, edits)) if edited else None
            slices.append(await _serve(client, due, edits, edited))
            if writing is not None:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
    return _summary(plan, slices, edits)


def facts_turned_round() -> list[EditSpec]:
    """Facts of the demo corpus, each with the object of the next fact of its relation."""
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


async def _serve(
    client: AsyncClient, due: Sequence[Arrival], edits: _Edits, edited: bool
) -> _Slice:
    begun = time.monotonic()
    samples, tasks = [], []
    for arrival in due:
        await asyncio.sleep(begun + arrival.at - time.monotonic())
        sample = Sample(begun + arrival.at - edits.begun, arrival.streamed)
        samples.append(sample)
        tasks.append(asyncio.create_task(_ask(client, arrival, sample, edits, edited)))
    await asyncio.wait(tasks, timeout=2 * _PATIENCE_SECONDS)
    for task in tasks:
        task.cancel()  # what has neither answered nor failed by now is lost, and counted so
    return _Slice(edited, samples, time.monotonic() - begun)


async def _ask(
    client: AsyncClient, arrival: Arrival, sample: Sample, edits: _Edits, edited: bool
) -> None:
    prompt = arrival.prompt
    if edited and edits.newest is not None and arrival.asks_edited:
        sample.min_seq, spec = edits.newest
        prompt, sample.expected = spec.prompt, spec.target
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
    client: AsyncClient, prompt: str, options: dict[str, Any], sample: Sample, begun: float
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


async def _edit(plan: LoadPlan, client: AsyncClient, specs: Any, edits: _Edits) -> None:
    """Submits edits at their rate, each when its time has come."""
    rng = random.Random(plan.seed)
    watching: set[asyncio.Task[None]] = set()
    try:
        while plan.edit_rate and (spec := next(specs, None)) is not None:
            await asyncio.sleep(rng.expovariate(plan.edit_rate))
            task = asyncio.create_task(_watch(plan, client, spec, edits))
            watching.add(task)
            task.add_done_callback(watching.discard)
    finally:
        # What was submitted is seen through: its visibility is what is measured.
        await asyncio.gather(*watching, return_exceptions=True)


async def _watch(plan: LoadPlan, client: AsyncClient, spec: EditSpec, edits: _Edits) -> None:
    (accepted,) = await client.submit_edits([spec], lane=plan.lane)
    (edit,) = await client.wait_edits([accepted.name])
    if edit.state is not EditState.COMMITTED:
        edits.rejected += 1
        return
    edits.newest = max((edit.commit_seq, spec), edits.newest or (0, spec), key=lambda n: n[0])
    entry = await anext(client.entries(edit.commit_seq))
    first_seen = False
    while (age := (datetime.now(UTC) - entry.append_time).total_seconds()) < _PATIENCE_SECONDS:
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


def _summary(plan: LoadPlan, slices: Sequence[_Slice], edits: _Edits) -> dict[str, Any]:
    samples = [sample for one in slices for sample in one.samples]
    answered = [sample for sample in samples if sample.answered]
    firsts = [(s.scheduled, s.first - s.scheduled) for s in answered if s.first is not None]
    answers = [(s.scheduled, s.ended - s.scheduled) for s in answered if s.ended is not None]
    rates = {edited: _tokens_per_second(slices, edited) for edited in (False, True)}
    plan.out.mkdir(parents=True, exist_ok=True)
    plot_load(plan.out / "load.png", answers, firsts, edits.commits)
    good = [
        s
        for s in answered
        if s.ended is not None
        and s.ended - s.scheduled <= plan.e2e_limit_ms / 1e3
        and (s.first is None or s.first - s.scheduled <= plan.ttft_limit_ms / 1e3)
    ]
    elapsed = sum(one.elapsed for one in slices)
    return report(
        "load",
        ratio=rates[True] / rates[False] if rates[False] else None,
        ours=rates[True],
        baseline=rates[False],
        first=[took for _, took in firsts],
        between=[gap for sample in answered for gap in sample.between],
        whole=[took for _, took in answers],
        requests=len(samples),
        errors=sum(bool(sample.error) for sample in samples),
        stale_answers=count_stale(samples),
        mixed_version_answers=count_mixed(samples),
        edit_visible={"first": edits.first, "all": edits.all},
        errors_by_status=Counter(sample.error for sample in samples if sample.error),
        lost_requests=sum(sample.ended is None for sample in samples),
        wrong_after_edit=count_wrong(samples),
        read_your_writes_requests=sum(sample.min_seq > 0 for sample in samples),
        edits_committed=len(edits.all) + edits.late,
        edits_rejected=edits.rejected,
        edits_not_visible_in_time=edits.late,
        goodput_per_second=len(good) / elapsed,
        answered_per_second=len(answered) / elapsed,
        replicas_seen=len({p.replica for s in samples for p in s.provenances}),
        parameters={
            "replicas": plan.replicas,
            "lane": plan.lane,
            "retrieval": plan.retrieval,
            "rate": plan.rate,
            "edit_rate": plan.edit_rate,
            "seconds": plan.seconds,
            "max_tokens": plan.max_tokens,
            "ttft_limit_ms": plan.ttft_limit_ms,
            "e2e_limit_ms": plan.e2e_limit_ms,
            "seed": plan.seed,
        },
    )


def _tokens_per_second(slices: Sequence[_Slice], edited: bool) -> float:
    chosen = [one for one in slices if one.edited is edited]
    tokens = sum(sample.num_tokens for one in chosen for sample in one.samples if sample.answered)
    return tokens / sum(one.elapsed for one in chosen)
