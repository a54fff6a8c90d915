"""Compares runs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from errata.errors import InvalidRequestError
from errata.evaluation.edit.families import cell, markdown_table
from errata.evaluation.edit.paired import as_json, differences, table
from errata.evaluation.edit.report import FigureRow, tables
from errata.evaluation.edit.summary import read_result

Runs = Sequence[tuple[str, Mapping[str, Any]]]


_IDENTITIES: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "models": lambda found: found["model"]["digest"],
    "data": lambda found: [found["dataset"], found["data"]["digest"]],
    "records": lambda found: found["data"]["records"],
    "seeds": lambda found: found["seeds"],
    "forms of questions": lambda found: found.get("form", "text"),
}


def read_runs(folders: Sequence[Path]) -> Runs:
    """Reads results; each gets a label: the method, and the folder if the method is not unique.

    Raises:
        InvalidRequestError: fewer than two runs, an unreadable one, or runs that cannot be compared
            because their model, data set, records or seeds differ.
    """
    if len(folders) < 2:
        raise InvalidRequestError("a comparison needs at least two runs.", field="runs")
    results = [read_result(folder) for folder in folders]
    for name, identity in _IDENTITIES.items():
        if len({json.dumps(identity(found)) for found in results}) > 1:
            raise InvalidRequestError(
                f"the runs were made on different {name}, so their figures cannot be compared.",
                field="runs",
            )
    methods = [str(found["method"]) for found in results]
    labels = [
        method if methods.count(method) == 1 else f"{method} ({folder})"
        for method, folder in zip(methods, folders, strict=True)
    ]
    return list(zip(labels, results, strict=True))


def compared(runs: Runs) -> str:
    """Markdown: for each number of edits that runs share, tables with one row per run."""
    headings = ["", "Suite", "Edits submitted together", "Through", "Command"]
    about = [
        [label, found["suite"], str(found["batch"]), found["through"], f"`{found['command']}`"]
        for label, found in runs
    ]
    parts = ["# " + ", ".join(label for label, _ in runs) + "\n", markdown_table(headings, about)]
    for number in sorted({point["edits"] for _, found in runs for point in found["points"]}):
        having = [run for run in runs if any(p["edits"] == number for p in run[1]["points"])]
        if len(having) > 1:
            points = _points(having, number)
            rows: list[FigureRow] = [
                (label, point["final"], point["ci95"]) for label, point in points
            ]
            parts += [f"## {number:,} edits\n", *tables(rows, "After the last edit. ")]
            parts += ["### Cost\n", _cost(points)]
            parts += _paired(points)
    return "\n".join(parts)


def paired_json(runs: Runs) -> dict[str, Any]:
    """For each number of edits that runs share, the differences of every run from the first."""
    _, start = runs[0]
    found: dict[str, Any] = {}
    for number in sorted({point["edits"] for _, run in runs for point in run["points"]}):
        points = _points(runs, number)
        if len(points) > 1:
            label, first = points[0]
            others = [as_json(name, differences(first, point)) for name, point in points[1:]]
            found[str(number)] = {"first": label, "others": others}
    return {
        "seeds": start["seeds"],
        "records": start["data"]["records"],
        "runs": [
            {"label": label, "commit": run["commit"], "command": run["command"]}
            for label, run in runs
        ],
        "edits": found,
    }


def _paired(points: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Differences of every run from the first, if the results contain each record's figures."""
    (first, start), *others = points
    parts = []
    for label, point in others:
        if found := differences(start, point):
            parts += [f"### {label} against {first}, paired\n", table(first, label, found)]
    return [*parts, _PAIRED_NOTE] if parts else []


_PAIRED_NOTE = (
    "Half-widths of 95 % intervals (Student's t) of the difference: over distinct records, each "
    "compared with itself, and over the means of seeds.\n"
)


def _points(runs: Runs, number: int) -> list[tuple[str, Mapping[str, Any]]]:
    """Every point with this number of edits; its label includes the values that a grid varies."""
    return [
        (f"{label}, {point['label']}" if point["varied"] else label, point)
        for label, found in runs
        for point in found["points"]
        if point["edits"] == number
    ]


def _cost(points: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    rows = [
        [
            label,
            f"{point['edit_seconds_mean']:.4f}",
            cell("edit_cpu_seconds", point.get("edit_cpu_seconds_mean")),
            f"{point['state_bytes'] / point['edits']:,.0f}",
            str(point["num_rejected"]),
        ]
        for label, point in points
    ]
    return markdown_table(
        ["", "Seconds per edit", "CPU seconds per edit", "Bytes per edit", "Rejected"], rows
    )
