"""Figures over all runs of a plan, and reading them back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from errata.errors import InvalidRequestError
from errata.evaluation.asking import CHAT
from errata.evaluation.edit.confidence import half_width
from errata.evaluation.edit.families import IN_CHAT
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites import SUITES, Point
from errata.evaluation.judge import Measures
from errata.evaluation.report import circumstances, code_version, file_digest

Unit = Mapping[str, Any]
"""One run, as `unit.run_unit` returns it, with its seed."""

_STAGES = ("pre", "immediate", "final")
_HEADLINE = (
    *_STAGES,
    "ci95",
    "ci95_over",
    "edit_seconds_mean",
    "edit_cpu_seconds_mean",
    "state_bytes",
    "num_rejected",
)


def summary(
    plan: Plan,
    points: Sequence[Point],
    facts: Sequence[Mapping[str, Any]],
    found: Sequence[Sequence[Unit]],
    *,
    num_records: int,
) -> dict[str, Any]:
    """Figures over all runs.

    Args:
        plan: that was run.
        points: its rows.
        facts: for each row, the model's digest and the whole configuration.
        found: for each row, a unit for each seed.
        num_records: in the data set.

    Returns:
        JSON. The suite's headline row is at the top level: `metrics` (the same as `final`), and
        `_HEADLINE`. `points` has the same for every row, and its `units`, one for each seed.
    """
    rows = [
        {
            "label": point.label,
            "varied": dict(point.varied),
            "edits": point.edits,
            "batch": point.batch,
            "config": dict(fact["config"]),
            "exposure": dict(fact["exposure"]),
            **_together(point, units),
            "units": [dict(unit) for unit in units],
        }
        for point, fact, units in zip(points, facts, found, strict=True)
    ]
    headline = rows[SUITES[plan.suite].headline]
    start, end = plan.records
    return {
        "method": plan.method,
        "dataset": plan.dataset,
        "suite": plan.suite,
        **asdict(plan.asking),
        "edits": headline["edits"],
        "batch": headline["batch"],
        "seed": plan.seed,
        "seeds": list(plan.seeds),
        "metrics": headline["final"],
        **{name: headline[name] for name in _HEADLINE},
        "config": headline["config"],
        "points": rows,
        "model": {"path": plan.model, "digest": facts[0]["model"]},
        "lane_model": _lane_model(plan, facts[0]),
        "data": {
            "path": str(plan.data),
            "digest": file_digest(plan.data),
            "records": [start, min(end, num_records)],
        },
        "through": plan.target or "in process",
        "commit": code_version(),
        **circumstances(),
    }


def _lane_model(plan: Plan, fact: Mapping[str, Any]) -> dict[str, Any] | None:
    if not plan.lane_model:
        return None
    return {"path": str(plan.lane_model), "digest": fact["lane_model"]}


def read_result(folder: Path) -> dict[str, Any]:
    """Reads a run's `result.json`.

    Raises:
        InvalidRequestError: it does not exist, or comes from another benchmark.
    """
    path = folder / "result.json" if folder.is_dir() else folder
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequestError(
            f"{path} is not a readable result: {error}.", field="runs"
        ) from error
    if not isinstance(found, dict) or "points" not in found:
        raise InvalidRequestError(f"{path} is not a result of `errata bench edit`.", field="runs")
    return found


def nested(figures: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1, "c": 2}` as `{"a": {"b": 1}, "c": 2}`; figures in chat are one level deeper."""
    found: dict[str, Any] = {}
    chats: dict[str, Any] = {}
    for name, value in figures.items():
        if name.startswith(IN_CHAT):
            chats[name.removeprefix(IN_CHAT)] = value
            continue
        group, dot, rest = name.partition(".")
        if dot:
            found.setdefault(group, {})[rest] = value
        else:
            found[name] = value
    return found | {CHAT: nested(chats)} if chats else found


def _together(point: Point, units: Sequence[Unit]) -> dict[str, Any]:
    over_seeds = len(units) > 1
    finals = [unit["final"] for unit in units]
    intervals = _half_widths(finals) if over_seeds else units[0]["spread"]
    return {
        **{stage: nested(_means([unit[stage] for unit in units])) for stage in _STAGES},
        "ci95": nested(intervals),
        "ci95_over": "seeds" if over_seeds else "records",
        "edit_seconds_mean": _mean_seconds(point, [unit["edit_seconds"] for unit in units]),
        "edit_cpu_seconds_mean": _mean_seconds(point, [unit["edit_cpu_seconds"] for unit in units]),
        "state_bytes": round(fmean(unit["state_bytes"] for unit in units)),
        "num_rejected": sum(unit["num_rejected"] for unit in units),
        "batches": [_batch(row) for row in zip(*(u["batches"] for u in units), strict=True)],
        "checkpoints": [
            _checkpoint(row) for row in zip(*(u["checkpoints"] for u in units), strict=True)
        ],
    }


def _mean_seconds(point: Point, seconds: Sequence[float | None]) -> float | None:
    """Of an edit; None if a run did not measure them."""
    known = [value for value in seconds if value is not None]
    return sum(known) / (len(known) * point.num_records) if len(known) == len(seconds) else None


def _batch(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One batch over all seeds."""
    return {
        "edits": seeds[0]["start"] + seeds[0]["size"],
        "seconds_each": fmean(batch["seconds"] / batch["size"] for batch in seeds),
        "immediate": nested(_means([batch["immediate"] for batch in seeds])),
        "final": nested(_means([batch["final"] for batch in seeds])),
    }


def _checkpoint(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One checkpoint over all seeds."""
    found: dict[str, Any] = {"edits": seeds[0]["edits"]}
    for which in ("all", "first"):
        figures = [checkpoint[which] for checkpoint in seeds]
        found[which] = nested(_means(figures))
        found[f"{which}_ci95"] = nested(_half_widths(figures))
    return found


def _means(figures: Sequence[Measures]) -> Measures:
    return {name: fmean(known) if known else None for name, known in _columns(figures).items()}


def _half_widths(figures: Sequence[Measures]) -> Measures:
    return {name: half_width(known) for name, known in _columns(figures).items()}


def _columns(figures: Sequence[Measures]) -> dict[str, list[float]]:
    """Every figure that occurs in a row, with its values from all rows that have it."""
    names = dict.fromkeys(name for row in figures for name in row)
    return {
        name: [value for row in figures if (value := row.get(name)) is not None] for name in names
    }
