"""Plots of figures as edits accumulate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from errata.evaluation.edit.families import figure
from errata.evaluation.published.tables import Definition, Shown


def draw(definition: Definition, shown: Sequence[Shown], path: Path) -> None:
    """Draws one curve for each run, with 95 % intervals.

    A run's checkpoints are its curve; a run without checkpoints has one point for each number of
    edits.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    column = definition.columns[0]
    picture, axes = pyplot.subplots(figsize=(6.4, 3.6), dpi=80)
    for item in shown:
        xs, ys, errors = _curve(item, column.figure)
        axes.errorbar(xs, ys, yerr=errors, marker=".", capsize=2, label=item.row)
    axes.set(xlabel="edits", ylabel=column.heading, title=definition.title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    picture.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib in the file, equal figures give equal bytes.
    picture.savefig(path, metadata={"Software": None})
    pyplot.close(picture)


def _curve(item: Shown, name: str) -> tuple[list[int], list[float], list[float]]:
    rows: list[tuple[int, Mapping[str, Any], Mapping[str, Any]]] = [
        (check["edits"], check["all"], check["all_ci95"]) for check in item.point["checkpoints"]
    ] or [(point["edits"], point["final"], point["ci95"]) for point in item.file["points"]]
    known = [
        (edits, value, figure(intervals, name) or 0.0)
        for edits, figures, intervals in rows
        if (value := figure(figures, name)) is not None
    ]
    return [row[0] for row in known], [row[1] for row in known], [row[2] for row in known]
