"""Times searches of keys by each kind of index, with the share of best keys found; and of codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from torch import Tensor

from errata.editing.elder.allocation import pack_codes
from errata.editing.lane.search import Lineage
from errata.evaluation.encoded_keys import Encoded, encode
from errata.evaluation.namespace_bench import NamespacePlan, compare
from errata.evaluation.report import circumstances, code_version, write
from errata.indices.codes import CodeIndex
from errata.indices.faiss_indices import FaissIndices
from errata.indices.inner_product import APPROXIMATE_FROM, KeyIndex
from errata.launch.output import TextTable

T = TypeVar("T")

_NOISE = 0.7  # of a query, relative to its key: about the distance of a rephrase
_CANDIDATES = 4  # as in routing
_LAYERS, _EXPERTS, _TOP_K = 6, 8, 2  # of ELDER's codes
_SLOW_ROUNDS = 5  # of the search of all keys, which is only timed; its results come from one pass
_SLOW_TO_MAKE = frozenset({"graph"})


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """What to search.

    Attributes:
        sizes: numbers of keys and of allocation codes.
        width: of normal keys and queries, d_r.
        batch: queries in a batch.
        rounds: batches at each size.
        seed: of keys and queries.
        indices: kinds to compare with the search of all keys.
        graph_keys: sizes above it have no graph, which takes too long to make.
        lane_model: folder of a lane model that encodes `data`; None for normal keys alone.
        data: CounterFact records.
        num_records: of them, at most that many are encoded.
        namespaces: numbers of namespaces to compare; none compares nothing.
        own_edits: edits of each namespace.
    """

    sizes: tuple[int, ...]
    width: int = 1024
    batch: int = 32
    rounds: int = 50
    seed: int = 0
    indices: tuple[str, ...] = ("lists",)
    graph_keys: int = 20_000
    lane_model: Path | None = None
    data: Path | None = None
    num_records: int = 15_000
    namespaces: tuple[int, ...] = ()
    own_edits: int = 1_000


@dataclass(frozen=True, eq=False, slots=True)
class _Keys:
    """Keys in the form that an index takes."""

    keys: Tensor
    lineage: Lineage = field(default_factory=Lineage)


@dataclass(frozen=True, eq=False, slots=True)
class _Task:
    """What is searched for.

    Attributes:
        source: of the keys, `normal` or `encoder`.
        rows: the keys.
        queries: (rounds, batch, d) fp32.
        thresholds: (rounds, batch); a best key claims its query if its score is above.
    """

    source: str
    rows: _Keys
    queries: Tensor
    thresholds: Tensor


def run(plan: RoutePlan, out: Path, console: Console) -> dict[str, Any]:
    """Searches at every size with every kind of index; writes OUT/result.json.

    A normal key has a query that is the key with added noise. For encoded keys see `encoded_keys`;
    half of their queries are rephrasings of edits, and half are about other subjects. A best key is
    found if it is among the candidates. Codes are two of eight experts in each of six layers.
    """
    encoded = None
    if plan.lane_model is not None and plan.data is not None:
        console.print(f"encoding {plan.num_records:,} records …")
        needed = plan.rounds * plan.batch
        encoded = encode(plan.lane_model, plan.data, plan.num_records, needed)
    points = []
    for task in _tasks(plan, encoded):
        points += _points(plan, task)
        _print(points[-1 - len(plan.indices) :], console)
    codes = [{"codes": size, **_code_times(plan, size)} for size in plan.sizes]
    table = TextTable("codes", "p50", "p99", "made in")
    for one in codes:
        times = one["codes_ms"]
        made = f"{one['codes_seconds']:.3f} s"
        table.add_row(f"{one['codes']:,}", *(f"{times[q]:.2f} ms" for q in ("p50", "p99")), made)
    console.print(table)
    values = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(plan).items()}
    found = {**values, "points": points, "codes": codes}
    if len(plan.namespaces) > 1:
        found["namespace_points"] = _namespaces(plan, console)
    found |= {"commit": code_version(), **circumstances()}
    write(found, out)
    return found


def _namespaces(plan: RoutePlan, console: Console) -> list[dict[str, Any]]:
    points = compare(
        NamespacePlan(
            plan.namespaces,
            plan.own_edits,
            plan.batch,
            plan.rounds,
            plan.width,
            plan.seed,
            plan.lane_model,
            plan.data,
        )
    )
    table = TextTable("namespaces", "edits of each", "alone", "same", "mixed", "total in one")
    for point in points:
        ms = point["cpu_ms"]
        ratios = (
            f"{ms[n]:.2f} ms (× {point[f'ratio_{n}']:.2f})" for n in ("same", "mixed", "total")
        )
        counts = " and ".join(f"{count:,}" for count in point["namespaces"])
        table.add_row(counts, f"{point['own']:,}", f"{ms['alone']:.2f} ms", *ratios)
    console.print(table)
    return points


def _tasks(plan: RoutePlan, encoded: Encoded | None) -> Iterator[_Task]:
    for size in plan.sizes:
        generator = torch.Generator().manual_seed(plan.seed)
        rows = _Keys(torch.randn(size, plan.width, generator=generator))
        own = torch.randint(size, (plan.rounds, plan.batch), generator=generator)
        noise = torch.randn(plan.rounds, plan.batch, plan.width, generator=generator)
        none = torch.full(own.shape, -torch.inf)
        yield _Task("normal", rows, rows.keys[own] + _NOISE * noise, none)
        del rows, noise
        if encoded is not None:
            rounds = min(plan.rounds, len(encoded.queries) // plan.batch)
            queries = encoded.queries[: rounds * plan.batch]
            thresholds = (queries @ encoded.sentinel).reshape(rounds, plan.batch)
            yield _Task(
                "encoder",
                _Keys(encoded.grown(size, plan.seed)),
                queries.reshape(rounds, plan.batch, -1),
                thresholds,
            )


def _points(plan: RoutePlan, task: _Task) -> list[dict[str, Any]]:
    """The search of all keys first, then the other kinds."""
    rows, queries, size = task.rows, task.queries, len(task.rows.keys)
    exact = FaissIndices("exact").inner_product()
    # All queries in one pass over the keys, which takes far less than a pass for each batch.
    best = exact.nearest(rows, queries.flatten(0, 1), 1).reshape(queries.shape[:2])
    scores = torch.stack(
        [(rows.keys[row] * batch).sum(-1) for row, batch in zip(best, queries, strict=True)]
    )
    claimed = scores > task.thresholds
    times, _ = _timed(exact, rows, queries[:_SLOW_ROUNDS])
    same = {"keys": size, "source": task.source, "share_claimed": float(claimed.float().mean())}
    points = [{**same, "index": "exact", "ms": _quantiles(times), "found": 1.0, "times_exact": 1.0}]
    for kind in plan.indices:
        if kind in _SLOW_TO_MAKE and size > plan.graph_keys:
            points.append({**same, "index": kind, "ms": None})
            continue
        index = FaissIndices(kind, min(size, APPROXIMATE_FROM)).inner_product()
        started = time.perf_counter()
        index.nearest(rows, queries[0], _CANDIDATES)
        index.wait_until_made()
        made = time.perf_counter() - started
        each, found = _timed(index, rows, queries)
        hits = (torch.stack(found) == best[..., None]).any(dim=-1)
        points.append(
            {
                **same,
                "index": kind,
                "ms": _quantiles(each),
                "found": float(hits.float().mean()),
                "found_claimed": float(hits[claimed].float().mean()),
                "times_exact": float(times.median() / each.median()),
                "made_seconds": made,
                "bytes_per_key": index.num_bytes / size,
            }
        )
    return points


def _print(points: list[dict[str, Any]], console: Console) -> None:
    table = TextTable(
        *("keys", "from", "index", "made in", "bytes/key", "least", "p50", "p99"),
        *("× exact", "found", "found of claimed"),
    )
    for point in points:
        ms = point["ms"]
        times = (
            ["not made"] * 3 if ms is None else [f"{ms[q]:.1f} ms" for q in ("p0", "p50", "p99")]
        )
        made = point.get("made_seconds")
        table.add_row(
            f"{point['keys']:,}",
            point["source"],
            point["index"],
            "–" if made is None else f"{made:.1f} s",
            f"{point.get('bytes_per_key', 0):.0f}",
            *times,
            *(
                "–" if point.get(name) is None else f"{point[name]:{form}}"
                for name, form in (
                    ("times_exact", ".1f"),
                    ("found", ".4f"),
                    ("found_claimed", ".4f"),
                )
            ),
        )
    console.print(table)


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


def _timed(index: KeyIndex, rows: _Keys, queries: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Milliseconds (rounds,) and candidates (batch, k) of each; the first search warms up."""
    index.nearest(rows, queries[0], _CANDIDATES)
    return _each_timed(lambda batch: index.nearest(rows, batch, _CANDIDATES), queries)


def _each_timed(search: Callable[[Tensor], T], batches: Iterable[Tensor]) -> tuple[Tensor, list[T]]:
    """Milliseconds (rounds,), and the results."""
    times, found = [], []
    for batch in batches:
        started = time.perf_counter()
        found.append(search(batch))
        times.append(1e3 * (time.perf_counter() - started))
    return torch.tensor(times), found


def _quantiles(values: Tensor) -> dict[str, float]:
    shares = (("p0", 0.0), ("p50", 0.5), ("p99", 0.99))
    return {name: float(values.quantile(share)) for name, share in shares}
