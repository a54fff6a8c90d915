"""`report.md` of a run: its figures in the papers' tables, one per family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from errata.evaluation.edit.families import cell, families_in, figure, markdown_table

FigureRow = tuple[str, Mapping[str, Any], Mapping[str, Any]]
"""A label, figures, and half-widths of their intervals."""


def markdown(found: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """The report of a result.

    Args:
        found: as `summary.summary` returns it.
        pictures: file names in the report's folder.
    """
    points = found["points"]
    parts = [_head(found)]
    if len(points) == 1:
        point = points[0]
        rows: list[FigureRow] = [(stage, point[stage], {}) for stage in ("pre", "immediate")]
        parts += tables([*rows, ("final", point["final"], point["ci95"])], "")
    else:
        before: FigureRow = ("before", found["pre"], {})
        rows = [(point["label"], point["final"], point["ci95"]) for point in points]
        parts += tables([before, *rows], "After the last edit. ")
        parts += ["## Immediately after each batch\n"]
        parts += tables([(point["label"], point["immediate"], {}) for point in points], "")
    parts += [*_compactions(points), *_attenuation(points[0]["checkpoints"]), _cost(points)]
    parts += [*_failures(points), *_similarities(points), *_experts(points)]
    parts += ["## Pictures\n", *(f"![{name}]({name})\n" for name in pictures)]
    parts += [_circumstances(found)]
    return "\n".join(parts)


def tables(rows: Sequence[FigureRow], remark: str) -> list[str]:
    """One table for each family with a figure in some row."""
    made = []
    for family in families_in([figures for _, figures, _ in rows]):
        cells = [
            [
                label,
                *(
                    cell(name, figure(figures, name), figure(intervals, name))
                    for name in family.columns
                ),
            ]
            for label, figures, intervals in rows
        ]
        made.append(f"### {family.title}\n")
        made.append(markdown_table(["", *family.columns.values()], cells))
        made.append(f"{remark}{family.note}\n")
    return made


_ASKED: Mapping[str, str] = {
    "text": "as texts",
    "chat": "in conversations",
    "both": "as texts and in conversations",
}


def _head(found: Mapping[str, Any]) -> str:
    seeds = ", ".join(str(seed) for seed in found["seeds"])
    over = found["ci95_over"]
    asked = _ASKED[found["form"]]
    return (
        f"# {found['method']} on {found['dataset']}: {found['suite']}\n\n"
        f"{found['edits']:,} edits, submitted {found['batch']:,} at a time, {found['through']}; "
        f"asked {asked}; seeds {seeds}. ± is the 95 % interval (Student's t) over {over}.\n\n"
        f"```\n{found['command']}\n```\n"
    )


def _attenuation(checkpoints: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tables of all edits so far, and of the first edits, at each checkpoint."""
    if not checkpoints:
        return []
    titles = {
        "all": "All edits so far",
        "first": f"The first {checkpoints[0]['edits']:,} edits",
    }
    made = []
    for which, title in titles.items():
        rows: list[FigureRow] = [
            (f"after {item['edits']:,}", item[which], item[f"{which}_ci95"]) for item in checkpoints
        ]
        made += [f"## {title}\n", *tables(rows, "")]
    return made


def _compactions(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each run before and after its compaction."""
    made = []
    for point in points:
        for unit in point["units"]:
            if "fitted" not in unit:
                continue
            fitted = unit["fitted"]
            sizes = f"{fitted['state_bytes']:,} bytes before, {unit['state_bytes']:,} after; "
            took = f"{unit['parts']['compaction']:.0f} seconds"
            rows: list[FigureRow] = [
                ("as fitted", fitted, {}),
                (point["label"], point["final"], {}),
            ]
            made += [
                f"## Compaction, seed {unit['seed']}\n",
                *tables(rows, ""),
                sizes + took + "\n",
            ]
    return made


def _cost(points: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for point in points:
        parts: dict[str, float] = {}
        for unit in point["units"]:
            for name, seconds in unit["parts"].items():
                parts[name] = parts.get(name, 0.0) + seconds
        whole = sum(unit["edit_seconds"] for unit in point["units"])
        shown = ", ".join(f"{name} {100 * part / whole:.0f} %" for name, part in parts.items())
        rows.append(
            [
                point["label"],
                f"{point['edit_seconds_mean']:.4f}",
                cell("edit_cpu_seconds", point["edit_cpu_seconds_mean"]),
                shown or "–",
                f"{fmean(unit['ask_seconds'] for unit in point['units']):.1f}",
                f"{point['state_bytes']:,}",
                f"{point['state_bytes'] / point['edits']:,.0f}",
                str(point["num_rejected"]),
            ]
        )
    headings = [
        "",
        "Seconds per edit",
        "CPU seconds per edit",
        "Parts",
        "Evaluation, seconds per run",
        "State, bytes",
        "Bytes per edit",
        "Rejected",
    ]
    return "### Cost\n\n" + markdown_table(headings, rows)


def _failures(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """The number of failed questions, by the edit that claimed them."""
    counts: list[Counter[str]] = []
    for point in points:
        counts.append(Counter())
        for unit in point["units"]:
            counts[-1].update(unit.get("failures", {}).get("counts", {}))
    kinds = sorted({kind for row in counts for kind in row})
    if not kinds:
        return []
    rows = [
        [point["label"], *(f"{row[kind]:,}" for kind in kinds)]
        for point, row in zip(points, counts, strict=True)
    ]
    note = "Questions of all seeds together; result.json has examples of each kind.\n"
    return ["### Failures\n", markdown_table(["", *kinds], rows), note]


def _experts(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """The similarity of edits within an expert, and how often they are routed to it."""
    rows = [
        [
            f"{point['label']}, seed {unit['seed']}",
            *(_some(unit["experts"][name]) for name in _OF_EXPERTS),
        ]
        for point in points
        for unit in point["units"]
        if "experts" in unit
    ]
    if not rows:
        return []
    return ["### Experts\n", markdown_table(["", *_OF_EXPERTS.values()], rows)]


def _some(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


_OF_EXPERTS = {
    "within": "Cosine within an expert",
    "between": "Between experts",
    "consistency": "Prompts routed to their expert",
}


def _similarities(points: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            f"{point['label']}, seed {unit['seed']}",
            str(unit["similarity"]["layer"]),
            *(f"{unit['similarity'][name]:.4f}" for name in _COSINES),
        ]
        for point in points
        for unit in point["units"]
        if "similarity" in unit
    ]
    if not rows:
        return []
    note = (
        "Independent masks alone multiply cosines by 1 − p: what counts is the distance of "
        "*after* from *mechanical*, not from *before*.\n"
    )
    headings = ["", "Layer", *(name.removeprefix("mean_") for name in _COSINES)]
    return ["### Mean cosine of two updates\n", markdown_table(headings, rows), note]


_COSINES = ("mean_before", "mean_after", "mechanical")


def _circumstances(found: Mapping[str, Any]) -> str:
    model, data, lane = found["model"], found["data"], found.get("lane_model")
    rows = [
        ["model", f"{model['path'] or 'of the cluster'}, digest `{model['digest'][:16]}…`"],
        [
            "data",
            f"{data['path']}, records {data['records'][0]}–{data['records'][1]}, digest "
            f"`{data['digest'][:16]}…`",
        ],
        *([["lane model", f"{lane['path']}, digest `{lane['digest'][:16]}…`"]] if lane else []),
        ["code", found["commit"]],
        ["machine", ", ".join(f"{key} {value}" for key, value in found["environment"].items())],
        ["configuration", ", ".join(f"{key} {value}" for key, value in found["config"].items())],
    ]
    return "## Circumstances\n\n" + markdown_table(["", ""], rows)
