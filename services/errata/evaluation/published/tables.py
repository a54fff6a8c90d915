"""Tables of published results: columns from `tables.toml`, rows from the published files.

A column's figure is `[STAGE:]NAME[@EDITS]`: `final` (the default), `pre`, `immediate`, `fitted`
(before a compaction; the figures of curves alone), or `forgetting`, which is immediate minus final;
NAME is a figure, `seconds` (of the clock), `cpu_seconds`, `bytes`, `edits`, `batch` or `rejected`;
with @EDITS, the point of a run with that many edits.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.errors import InvalidRequestError
from errata.evaluation.data.fields import read_text
from errata.evaluation.edit.families import cell, figure, markdown_table

NOTHING = "No run has been published here yet.\n"
_COUNTED = ("edits", "batch", "bytes", "rejected")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        heading: above it.
        figure: what it shows, in the grammar of this module.
        slot: which of a row's files it is read from; a row can have files of several data sets.
    """

    heading: str
    figure: str
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Definition:
    """A table or plot of `tables.toml`.

    Attributes:
        name: in the markers of a page.
        title: of a plot; empty for a table.
        columns: of a table; the curve of a plot.
        rows: the table whose rows it shows; its own, unless the definition names another.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A published file in one row of a table.

    Attributes:
        row: label.
        order: rows are sorted by it, then by label.
        slot: of the columns that it fills.
        point: of the file.
        file: the whole file.
    """

    row: str
    order: float
    slot: str
    point: Mapping[str, Any]
    file: Mapping[str, Any]


Definitions = Mapping[str, Mapping[str, Definition]]
"""Kind (`table`, `paired`, `plot`) → name → definition."""


def read_definitions(path: Path) -> Definitions:
    """All definitions.

    Raises:
        InvalidRequestError: the file is missing or has another form.
    """
    try:
        found = tomllib.loads(read_text(path))
        tables = {
            kind: {
                name: Definition(
                    name,
                    "",
                    tuple(Column(*column) for column in item["columns"]),
                    item.get("rows", name),
                )
                for name, item in found.get(kind, {}).items()
            }
            for kind in ("table", "paired")
        }
        plots = {
            name: Definition(name, item["title"], (Column(item["axis"], item["figure"]),), name)
            for name, item in found.get("plot", {}).items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequestError(
            f"{path} does not define tables as it should: {error!r}.", field="tables"
        ) from error
    return {**tables, "plot": plots}


def read_published(folder: Path) -> list[dict[str, Any]]:
    """All published files, by name.

    Raises:
        InvalidRequestError: a file is not JSON.
    """
    try:
        return [json.loads(read_text(path)) for path in sorted(folder.rglob("*.json"))]
    except ValueError as error:
        raise InvalidRequestError(
            f"a file in {folder} is not JSON: {error}.", field="docs"
        ) from error


def shown_in(files: Sequence[Mapping[str, Any]], place: str, name: str) -> list[Shown]:
    """Everything that a table or plot shows, in the order of its rows.

    Args:
        files: published.
        place: `table` or `plot`.
        name: of it.
    """
    found = [
        shown
        for file in files
        for row in file["rows"]
        if row.get(place) == name and "points" in file
        for shown in _rows_of(file, row)
    ]
    return sorted(found, key=lambda item: (item.order, item.row))


def _rows_of(file: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[Shown]:
    """One row, or with `"points": "all"` one for each of the file's points."""
    points, order, slot = file["points"], row.get("order", 100), row.get("slot", "")
    which = row.get("points", -1 if file["suite"] == "scaling" else 0)
    if which != "all":
        yield Shown(row["row"], order, slot, points[which], file)
        return
    for number, point in enumerate(points):
        label = ", ".join(filter(None, (row["row"], point["label"])))
        yield Shown(label, order + number / 1000, slot, point, file)


def table(definition: Definition, shown: Sequence[Shown], data: str) -> str:
    """Markdown: the table, and the command of every row.

    Args:
        definition: its columns.
        shown: its rows; several files can share a row, each in its slot.
        data: the folder of the published files, as the page links it.
    """
    if not shown:
        return NOTHING
    rows: dict[str, dict[str, Shown]] = {}
    for item in shown:
        rows.setdefault(item.row, {})[item.slot] = item
    cells = [
        [label, *(_cell(column, by_slot.get(column.slot)) for column in definition.columns)]
        for label, by_slot in rows.items()
    ]
    headings = ["", *(column.heading for column in definition.columns)]
    return f"{markdown_table(headings, cells)}\n{commands(shown, data)}"


def commands(shown: Sequence[Shown], data: str) -> str:
    """Markdown: each file's command and circumstances, collapsed.

    Without the attribute, the site would not read what is inside as Markdown; code hosts ignore it.
    """
    files = {item.file["name"]: item.file for item in shown}
    parts = ['<details markdown="1"><summary>Commands</summary>\n']
    for name, file in files.items():
        environment, digests = file["environment"], file["digests"]
        known = [f"{kind} `{value[:12]}`" for kind, value in digests.items() if value]
        parts.append(
            f"[{name}]({data}/{name}.json): commit `{file['commit'][:12]}`, seeds "
            f"{', '.join(map(str, file['seeds']))}, records {file['records'][0]}–"
            f"{file['records'][1]}; {', '.join(known)}; {environment['cores']} cores, load at "
            f"the end {environment['load_average']:.1f}, torch {environment['torch']}"
            f"\n\n```\n{file['command'].strip()}\n```\n"
        )
    return "\n".join([*parts, "</details>\n"])


def _cell(column: Column, shown: Shown | None) -> str:
    if shown is None:
        return "–"
    spec, _, edits = column.figure.partition("@")
    point = shown.point
    if edits:
        fitting = [item for item in shown.file["points"] if item["edits"] == int(edits)]
        if not fitting:
            return "–"
        point = fitting[0]
    stage, _, name = spec.rpartition(":")
    if name in ("seconds", "cpu_seconds"):
        seconds = point.get(name)  # None in files of clusters, and in those before it was measured
        return "–" if seconds is None else f"{seconds:.3g}"
    if name in _COUNTED:
        return f"{point[name]:,}"
    if stage == "forgetting":
        before, after = figure(point["immediate"], name), figure(point["final"], name)
        return cell(name, None if before is None or after is None else before - after)
    if stage == "pre":
        return cell(name, figure(shown.file["pre"], name))
    interval = None if stage else figure(point["ci95"], name)
    return cell(name, figure(point.get(stage or "final", {}), name), interval)
