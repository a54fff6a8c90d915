"""Times searches of keys, exact and in inverted lists, with the lists' recall; and of codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from torch import Tensor

from errata.editing.elder.allocation import pack_codes
from errata.editing.lane.search import Lineage
from errata.evaluation.report import circumstances, code_version, write
from errata.indices.codes import CodeIndex
from errata.indices.inner_product import APPROXIMATE_FROM, KeyIndex
from errata.launch.output import TextTable

T = TypeVar("T")

_NEVER = 2**62
_NOISE = 0.7  # of a query, relative to its key: about the distance of a rephrase
_CANDIDATES = 4  # as in routing
_LAYERS, _EXPERTS, _TOP_K = 6, 8, 2  # of ELDER's codes


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """What to search.

    Attributes:
        sizes: numbers of keys and of allocation codes.
        width: of keys and queries, d_r.
        batch: queries in a batch.
        rounds: batches at each size.
        seed: of keys and queries.
    """

    sizes: tuple[int, ...]
    width: int = 1024
    batch: int = 32
    rounds: int = 50
    seed: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class _Keys:
    """Synthetic keys in the form that an index takes."""

    keys: Tensor
    lineage: Lineage = field(default_factory=Lineage)


def run(plan: RoutePlan, out: Path, console: Console) -> dict[str, Any]:
    """Searches at every size, exactly and in inverted lists; writes OUT/result.json.

    Keys are normal vectors; each query is a key with added noise, and that key is the right answer.
    Codes are two of eight experts in each of six layers, for stored codes and for queries.
    """
    points = [_point(plan, size) for size in plan.sizes]
    found = {**asdict(plan), "points": points, "commit": code_version(), **circumstances()}
    write(found, out)
    table = TextTable(
        *("keys", "all rows p50", "p99", "lists p50", "p99", "recall@1", "made in"),
        *("codes p50", "p99", "made in"),
    )
    for point in points:
        times = [point[kind][q] for kind in ("exact_ms", "lists_ms") for q in ("p50", "p99")]
        table.add_row(
            f"{point['keys']:,}",
            *(f"{value:.2f} ms" for value in times),
            f"{point['recall_at_1']:.4f}",
            f"{point['lists_seconds']:.1f} s",
            *(f"{point['codes_ms'][q]:.2f} ms" for q in ("p50", "p99")),
            f"{point['codes_seconds']:.3f} s",
        )
    console.print(table)
    return found


def _point(plan: RoutePlan, size: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(plan.seed)
    rows = _Keys(torch.randn(size, plan.width, generator=generator))
    own = torch.randint(size, (plan.rounds, plan.batch), generator=generator)
    noise = torch.randn(plan.rounds, plan.batch, plan.width, generator=generator)
    queries = rows.keys[own] + _NOISE * noise
    exact, best = _timed(KeyIndex(_NEVER), rows, queries)
    lists = KeyIndex(min(size, APPROXIMATE_FROM))
    started = time.perf_counter()
    lists.nearest(rows, queries[0], _CANDIDATES)
    lists.wait_for_lists()
    made = time.perf_counter() - started
    approximate, found = _timed(lists, rows, queries)
    return {
        "keys": size,
        "exact_ms": _quantiles(exact),
        "lists_ms": _quantiles(approximate),
        "recall_at_1": _share(found == best[..., :1]),
        "right_at_1": _share(best[..., :1] == own[..., None]),
        "lists_seconds": made,
        **_code_times(plan, size),
    }


def _code_times(plan: RoutePlan, size: int) -> dict[str, Any]:
    """Times building the index, too: all codes of a lane change with each of its commits."""
    generator = torch.Generator().manual_seed(plan.seed)
    codes = _random_codes(size, generator)
    queries = [_random_codes(plan.batch, generator) for _ in range(plan.rounds)]
    index = CodeIndex()
    started = time.perf_counter()
    index.nearest(codes, queries[0])
    made = time.perf_counter() - started
    times, _ = _each_timed(lambda batch: index.nearest(codes, batch), queries)
    return {"codes_ms": _quantiles(times), "codes_seconds": made}


def _random_codes(size: int, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(size, _LAYERS, _EXPERTS, generator=generator).topk(_TOP_K).indices
    codes = torch.zeros(size, _LAYERS, _EXPERTS, dtype=torch.bool)
    return pack_codes(codes.scatter(-1, drawn, True))


def _timed(index: KeyIndex, rows: _Keys, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Milliseconds (rounds,) and candidates (rounds, batch, k); the first search warms up."""
    index.nearest(rows, queries[0], _CANDIDATES)
    times, found = _each_timed(lambda batch: index.nearest(rows, batch, _CANDIDATES), queries)
    return times, torch.stack(found)


def _each_timed(search: Callable[[Tensor], T], batches: Iterable[Tensor]) -> tuple[Tensor, list[T]]:
    """Milliseconds (rounds,), and the results."""
    times, found = [], []
    for batch in batches:
        started = time.perf_counter()
        found.append(search(batch))
        times.append(1e3 * (time.perf_counter() - started))
    return torch.tensor(times), found


def _quantiles(values: Tensor) -> dict[str, float]:
    return {name: float(values.quantile(q)) for name, q in (("p50", 0.5), ("p99", 0.99))}


def _share(hits: Tensor) -> float:
    return float(hits.any(dim=-1).float().mean())
