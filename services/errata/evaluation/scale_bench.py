"""How a worker's costs grow with the edits of a lane: start, memory, catch-up, routing, revert."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

from errata import demo
from errata.artifacts.store import ArtifactStore
from errata.editing.model.causal_lm import CausalLM
from errata.editing.registry import get_method
from errata.editing.retriever.start import new_lane_model
from errata.editing.retriever.training_config import TrainingConfig
from errata.evaluation.memory.fill import Filling
from errata.evaluation.memory.measure import in_new_process
from errata.evaluation.memory.process import check_is_measurable, resident_bytes
from errata.evaluation.report import circumstances, code_version, write
from errata.evaluation.scale_log import ScaleLog, prompt_of
from errata.evaluation.scale_start import time_start
from errata.indices.faiss_indices import FaissIndices
from errata.launch.output import TextTable
from errata.log.chain import ChainedEntry, Position
from errata.log.entries import EditsReverted, SnapshotTaken
from errata.log.fold import LogFold
from errata.log.payload_convert import decode, encode
from errata.replica.applier import Applier
from errata.replica.snapshot_parts import load_snapshot, make_manifest

_LAST_ENTRIES = 20
_PROMPTS = 32
_ROUNDS = 5
_SMALL = TrainingConfig(width=64, depth=1, d_r=256, num_prompt=3, num_deep=0)


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """What to measure.

    Attributes:
        method: of the lane.
        sizes: numbers of edits.
        batch: edits of a commit.
        index: kind of the key index.
        model: folder of the LLM; the demo model if empty.
    """

    method: str
    sizes: tuple[int, ...]
    batch: int = 10
    index: str = "auto"
    model: str = ""


def run(plans: list[ScalePlan], out: Path, console: Console) -> dict[str, Any]:
    """Measures each method at each size, in a process each; writes OUT/result.json.

    Raises:
        InvalidRequestError: it is not Linux, or a method is unknown.
    """
    check_is_measurable()
    table = TextTable(
        *("method", "edits", "entries", "fold", "start", "start from a snapshot", "worker's start"),
        "resident",
        *("catch-up per commit", "routing, 32 prompts", "revert of one"),
    )
    points = []
    for plan in plans:
        for size in plan.sizes:
            console.print(f"{plan.method}, {size:,} edits …")
            point = {"method": plan.method, "edits": size, **in_new_process(measure, plan, size)}
            points.append(point)
            routing = point["routing_ms"]
            table.add_row(
                plan.method,
                f"{size:,}",
                f"{point['entries']:,}",
                f"{point['fold_seconds']:.2f} s",
                f"{point['start_seconds']:.1f} s",
                f"{point['snapshot_seconds']:.2f} s",
                f"{point['worker_start_seconds']:.1f} s",
                f"{point['resident_bytes'] / 2**20:,.0f} MiB",
                f"{point['catch_up_ms']:.1f} ms",
                "–" if routing is None else f"{routing:.1f} ms",
                f"{point['revert_ms']:.0f} ms",
            )
    console.print(table)
    found: dict[str, Any] = {"plans": [asdict(plan) for plan in plans], "points": points}
    found |= {"commit": code_version(), **circumstances()}
    write(found, out)
    return found


def measure(plan: ScalePlan, size: int) -> dict[str, Any]:
    """Costs at one size, in this process.

    Returns:
        `fold_seconds` of the entries alone; `start_seconds` from the first entry to the last one
        applied; `snapshot_seconds` of a start from a snapshot of that; `worker_start_seconds` of a
        new process from there to its first answer (`scale_start.time_start`); `resident_bytes` that
        the first start adds; `catch_up_ms`, median of the last commits; `routing_ms` of 32 prompts,
        None if the lane does not route; `revert_ms` of one edit.
    """
    torch.set_num_threads(1)
    model = CausalLM.load(plan.model or demo.model_path())
    method = get_method(plan.method)
    with tempfile.TemporaryDirectory() as folder:
        config, lane_model = method.config(), None
        if config.needs_lane_model:
            lane_model = Path(folder) / "lane-model"
            new_lane_model(model, None, _SMALL).save(lane_model)
        filling = Filling(method, config, lane_model, size, plan.batch, 0)
        log = ScaleLog(model, filling, Path(folder) / "artifacts")
        applier = Applier(model, log.store, FaissIndices(plan.index))
        twin = CausalLM.load(plan.model or demo.model_path())
        other = Applier(twin, log.store, FaissIndices(plan.index))
        found, named = asyncio.run(_follow(applier, other, log))
        worker = time_start(
            Path(folder),
            model=plan.model or str(demo.model_path()),
            artifacts=Path(folder) / "artifacts",
            index=plan.index,
            entry=encode(named, "scale").SerializeToString(),
            prompt=f"So {prompt_of(0)}",
        )
        return {"entries": len(log.entries), **found, **worker}


async def start(applier: Applier, entries: list[ChainedEntry]) -> list[float]:
    """Applies a log's entries as a replica does; seconds of each.

    Args:
        applier: has applied nothing.
        entries: of the log, from the first on.
    """
    fold, times = LogFold(), []
    for stored in entries:
        started = time.perf_counter()
        entry = decode(stored)
        fold.add(entry)
        change = await applier.prepare(entry)
        if change is not None:
            change.apply()
        applier.digest()  # as every replica reports it
        times.append(time.perf_counter() - started)
    return times


async def snapshot_of(applier: Applier, fold: LogFold, log: ScaleLog) -> SnapshotTaken:
    """Makes a snapshot of the state after all entries; returns the entry that would name it."""
    captured = applier.capture()()
    position = Position(log.entries[-1].seq, log.entries[-1].chain_digest)
    digest = applier.model.digest
    manifest = make_manifest(log.put, "scale", position, digest, captured, fold, ())
    named = log.put(manifest.to_bytes())
    return SnapshotTaken(
        position.seq, position.chain_digest, named, captured.state_digest, digest, "scale"
    )


async def start_from(applier: Applier, store: ArtifactStore, named: SnapshotTaken) -> float:
    """Seconds in which a replica that has applied nothing starts from a snapshot."""
    began = time.perf_counter()
    snapshot = await load_snapshot(
        store, named, applier.model.digest, holds=applier.holds, with_memory=False
    )
    applier.restore(snapshot)
    return time.perf_counter() - began


async def _follow(
    applier: Applier, other: Applier, log: ScaleLog
) -> tuple[dict[str, Any], SnapshotTaken]:
    """The figures of one process, and the entry that would name the snapshot."""
    fold = LogFold()
    began = time.perf_counter()
    for stored in log.entries:
        fold.add(decode(stored))
    folded = time.perf_counter() - began
    before = resident_bytes()
    began = time.perf_counter()
    times = await start(applier, log.entries)
    started = time.perf_counter() - began
    routing = _routing_ms(applier, len(log.names))
    resident = resident_bytes() - before
    named = await snapshot_of(applier, fold, log)
    restored = await start_from(other, log.store, named)
    assert other.digest() == applier.digest(), "a replica from a snapshot has the same state"
    reverted = decode(log.append(EditsReverted((log.names[len(log.names) // 2],), "")))
    began = time.perf_counter()
    change = await applier.prepare(reverted)
    assert change is not None, "the edit is in force"
    change.apply()
    applier.digest()
    found = {
        "fold_seconds": folded,
        "start_seconds": started,
        "snapshot_seconds": restored,
        "resident_bytes": resident,
        "catch_up_ms": 1e3 * median(times[-1 : -2 * _LAST_ENTRIES : -2]),
        "routing_ms": routing,
        "revert_ms": 1e3 * (time.perf_counter() - began),
    }
    return found, named


def _routing_ms(applier: Applier, number: int) -> float | None:
    table = applier.routing()
    if table is None:
        return None
    times = []
    for turn in range(_ROUNDS + 1):  # the first makes what later ones use
        prompts = [f"So {prompt_of((turn + place) % number)}" for place in range(_PROMPTS)]
        began = time.perf_counter()
        table.claims(prompts)
        times.append(1e3 * (time.perf_counter() - began))
    return median(times[1:])
