"""A run's result in a file that is small enough to commit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from errata.errors import InvalidRequestError
from errata.evaluation.data.fields import read_text
from errata.evaluation.edit.exposure import GROUPS
from errata.evaluation.edit.families import figure
from errata.evaluation.edit.summary import nested

MAX_BYTES = 30_000
_OF_GROUPS = (
    "prompts",
    "rephrases",
    *(
        f"{name}.{how}"
        for name in ("reliability", "generality", "locality")
        for how in ("token", "exact")
    ),
    "claims.prompts",
    "claims.rephrases",
    "claims.others",
    "claims.unrelated",
)
_IN_CURVES = (
    "score",
    *(f"{name}.exact" for name in ("reliability", "generality", "locality")),
    *(f"{name}.token" for name in ("reliability", "generality", "locality")),
)
_DIGITS = 4
_PLACES = frozenset({"table", "paired", "plot"})


def condensed(
    found: Mapping[str, Any], name: str, command: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The figures of a result with their circumstances, without single records and batches.

    Args:
        found: as `errata bench edit` writes it.
        name: `METHOD/NAME`, under which it is published.
        command: that a reader repeats, with generic paths.
        rows: the tables and plots that show it; empty for the table of its method's runs.
    """
    method, _, _ = name.partition("/")
    lane_model, exposure = found.get("lane_model"), found["points"][0].get("exposure", {})
    return {
        "name": name,
        "method": found["method"],
        "dataset": found["dataset"],
        "suite": found["suite"],
        "rows": list(rows) or [{"table": f"{method}-runs", "row": name.partition("/")[2]}],
        "command": command,
        "commit": found["commit"],
        "seeds": found["seeds"],
        "records": found["data"]["records"],
        "through": found["through"],
        "environment": found["environment"],
        "digests": {
            "model": found["model"]["digest"],
            "data": found["data"]["digest"],
            "lane_model": lane_model["digest"] if lane_model else None,
            "split": exposure.get("split"),
        },
        "leaks": exposure.get("leaks", {}),
        "pre": _rounded(_short(found["pre"])),
        "points": [_point(point) for point in found["points"]],
    }


def as_text(published: Mapping[str, Any]) -> str:
    """The file's text: one line for each entry and each point, so that changes can be read.

    Raises:
        InvalidRequestError: it is larger than `MAX_BYTES`.
    """
    lines = []
    for key, value in published.items():
        if key in ("points", "pairs"):
            items = ",\n  ".join(_compact(item) for item in value)
            lines.append(f' "{key}": [\n  {items}\n ]')
        else:
            lines.append(f" {json.dumps(key)}: {_compact(value)}")
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    if len(text.encode()) > MAX_BYTES:
        raise InvalidRequestError(
            f"{published['name']} would have {len(text.encode()):,} bytes; the limit is "
            f"{MAX_BYTES:,}. Publish a run with fewer rows.",
            field="result",
        )
    return text


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The tables and plots that show a run: a JSON array of objects with `row` and a place.

    Raises:
        InvalidRequestError: the file is unusable.
    """
    try:
        rows = json.loads(read_text(path))
    except ValueError as error:
        raise InvalidRequestError(f"{path} is not JSON: {error}.", field="row") from error
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and "row" in row and len(row.keys() & _PLACES) == 1 for row in rows
    ):
        raise InvalidRequestError(
            f'{path} must be an array such as [{{"table": "summary", "row": "RECIPE"}}], each with '
            "`row` and one of `table`, `paired` and `plot`.",
            field="row",
        )
    return rows


def _point(point: Mapping[str, Any]) -> dict[str, Any]:
    fitted = [unit["fitted"] for unit in point["units"] if "fitted" in unit]
    return {
        "label": point["label"],
        "edits": point["edits"],
        "batch": point["batch"],
        "seconds": _significant(point["edit_seconds_mean"]),
        "cpu_seconds": _significant(point.get("edit_cpu_seconds_mean")),
        "bytes": round(point["state_bytes"] / point["edits"]),
        "rejected": point["num_rejected"],
        "ci95_over": point["ci95_over"],
        "immediate": _rounded(_short(point["immediate"])),
        **({"fitted": _curve(fitted)} if fitted else {}),
        "final": _rounded(_short(point["final"])),
        "ci95": _rounded(_short(point["ci95"])),
        "checkpoints": [
            {
                "edits": item["edits"],
                "all": _curve([item["all"]]),
                "all_ci95": _curve([item["all_ci95"]]),
            }
            for item in point["checkpoints"]
        ],
    }


def _significant(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.3g}")


def _short(figures: Mapping[str, Any]) -> dict[str, Any]:
    """All figures, and of the groups of questions the figures that tables show."""
    found = {name: value for name, value in figures.items() if name not in GROUPS}
    for group in GROUPS:
        if group in figures:
            known = figures[group]
            found[group] = {name: known[name] for name in _OF_GROUPS if name in known}
    return found


def _curve(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures that curves show, as means over runs."""
    flat = {name: [figure(figures, name) for figures in runs] for name in _IN_CURVES}
    known = {
        name: fmean(found)
        for name, values in flat.items()
        if (found := [value for value in values if value is not None])
    }
    made: dict[str, Any] = _rounded(nested(known))
    return made


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items() if item is not None}
    return round(value, _DIGITS) if isinstance(value, float) else value


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
