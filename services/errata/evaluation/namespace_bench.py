"""Times decisions of requests that read one namespace, by how many other namespaces there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errata.editing.lane.claims import Claim
from errata.editing.lane.inventory import Inventory, fact_of
from errata.editing.lane.repository import Rows
from errata.editing.namespaces import Reading
from errata.editing.retriever import gate_file
from errata.editing.retriever.gate import Gate
from errata.editing.scope import by_cosine, unit
from errata.evaluation.data.counterfact import load_counterfact
from errata.indices.faiss_indices import FaissIndices

Decide = Callable[[Inventory, int, Sequence[Reading]], Sequence[Claim]]
"""(inventory, number of the batch, readings) → decisions."""
_LIMIT = 0.5
_WARM_UP = 2  # rounds
_SLOW_ROUNDS = 5  # of the search of all edits in one namespace


@dataclass(frozen=True, slots=True)
class NamespacePlan:
    """What to compare.

    Attributes:
        counts: numbers of namespaces; the first one is compared with each of the others.
        own: edits of each namespace.
        batch: prompts in a batch.
        rounds: batches.
        width: of normal keys, without a gate.
        seed: of keys, queries and readings.
        gate: file of a gate, or folder of a lane model, that reads `data`; None for normal keys.
        data: CounterFact records, whose rephrasings are asked.
    """

    counts: tuple[int, ...]
    own: int
    batch: int
    rounds: int
    width: int
    seed: int
    gate: Path | None = None
    data: Path | None = None


@dataclass(frozen=True, eq=False, slots=True)
class _Case:
    """Edits, and what the prompts of a batch read.

    Attributes:
        edits: in `count` namespaces.
        count: of namespaces.
        is_mixed: each prompt reads another one; else all prompts of a batch read the same.
    """

    edits: Inventory
    count: int
    is_mixed: bool = False


def compare(plan: NamespacePlan) -> list[dict[str, Any]]:
    """Median CPU times of batches, for each number of namespaces.

    Three cases have `own` edits in the namespace that a request reads: `alone`, the first number of
    namespaces; `same`, all prompts of a batch read one namespace among many; `mixed`, each prompt
    reads another one. They take turns, so that what else the machine does is the same for all. In
    `total`, all of the many namespaces' edits are in one namespace.
    """
    decide, width = _deciding(plan)
    first, *others = plan.counts
    alone = _Case(_filled(plan.own, first, width, plan.seed), first)
    points = []
    for count in others:
        many = _filled(plan.own, count, width, plan.seed)
        cases = {"alone": alone, "same": _Case(many, count), "mixed": _Case(many, count, True)}
        ms = _timed(plan, decide, cases, plan.rounds)
        del many, cases
        total = _Case(_filled(plan.own * count, 1, width, plan.seed), 1)
        ms |= _timed(plan, decide, {"total": total}, min(plan.rounds, _SLOW_ROUNDS))
        ratios = {f"ratio_{name}": ms[name] / ms["alone"] for name in ("same", "mixed", "total")}
        points.append({"namespaces": [first, count], "own": plan.own, "cpu_ms": ms, **ratios})
    return points


def _timed(
    plan: NamespacePlan, decide: Decide, cases: Mapping[str, _Case], rounds: int
) -> dict[str, float]:
    """Median milliseconds of this process's CPU time, by case; others' work does not count."""
    drawn = torch.Generator().manual_seed(plan.seed)
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(-_WARM_UP, rounds):
        for name, case in cases.items():
            read = _readings(plan.batch, case.count, drawn, mixed=case.is_mixed)
            started = time.process_time()
            decide(case.edits, number % plan.rounds, read)
            if number >= 0:
                times[name].append(1e3 * (time.process_time() - started))
    return {name: float(torch.tensor(found).median()) for name, found in times.items()}


def _readings(batch: int, count: int, drawn: torch.Generator, *, mixed: bool) -> list[Reading]:
    numbers = torch.randint(count, (batch if mixed else 1,), generator=drawn).tolist()
    return [(_namespace(numbers[index % len(numbers)]),) for index in range(batch)]


def _namespace(number: int) -> str:
    return f"n{number}"


def _filled(own: int, count: int, width: int, seed: int) -> Inventory:
    """Normal unit keys, `own` in each of `count` namespaces."""
    generator = torch.Generator().manual_seed(seed)
    total = own * count
    names = tuple(f"edits/{number + 1}-0" for number in range(total))
    keys = unit(torch.randn(total, width, generator=generator))
    rows = Rows(names, tuple(map(fact_of, names)), keys, torch.zeros(total, 1))
    return Inventory.of(rows.placed({n: _namespace(i // own) for i, n in enumerate(names)}))


def _deciding(plan: NamespacePlan) -> tuple[Decide, int]:
    """Decides by a gate that reads texts, or on normal queries; and the width of keys."""
    index = FaissIndices("exact").inner_product()
    if plan.gate is None or plan.data is None:
        generator = torch.Generator().manual_seed(plan.seed + 1)
        shape = (plan.rounds, plan.batch, plan.width)
        queries: Tensor = unit(torch.randn(shape, generator=generator))

        def by_search(inventory: Inventory, number: int, read: Sequence[Reading]) -> list[Claim]:
            return by_cosine(inventory, _LIMIT, index, queries[number], read)

        return by_search, plan.width
    gate = Gate.of(gate_file.load(plan.gate, torch.device("cpu")), "")
    texts = [text for one in load_counterfact(plan.data) for text in one.rephrases]

    def by_gate(inventory: Inventory, number: int, read: Sequence[Reading]) -> list[Claim]:
        start = number * plan.batch % max(1, len(texts) - plan.batch)
        return gate.claims(inventory, index, texts[start : start + plan.batch], read)

    return by_gate, gate.sentinel.shape[-1]
