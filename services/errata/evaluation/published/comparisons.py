"""Published comparisons: paired differences between runs, one row for each pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from errata.evaluation.edit.families import cell, markdown_table
from errata.evaluation.published.tables import NOTHING, Definition

_SHOWN = ("first", "second", "difference", "over_records", "over_seeds")


def condensed_comparison(
    found: Mapping[str, Any], name: str, command: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The file of a comparison.

    Args:
        found: `compare.json` of `errata bench compare`.
        name: `METHOD/NAME`.
        command: that a reader repeats.
        rows: the places that show it; empty for the table `paired`.
    """
    return {
        "name": name,
        "kind": "comparison",
        "rows": list(rows) or [{"paired": "paired", "row": ""}],
        "command": command,
        "seeds": found["seeds"],
        "records": found["records"],
        # Their commands have the paths of the machine that they ran on.
        "runs": [{key: run[key] for key in ("label", "commit")} for run in found["runs"]],
        "pairs": [
            {
                "edits": int(edits),
                "first": pairs["first"],
                "second": other["second"],
                "figures": {
                    item["figure"]: {
                        key: None if item[key] is None else round(item[key], 4) for key in _SHOWN
                    }
                    for item in other["differences"]
                },
            }
            for edits, pairs in found["edits"].items()
            for other in pairs["others"]
            if other["differences"]
        ],
    }


def table(definition: Definition, files: Sequence[Mapping[str, Any]], data: str) -> str:
    """Markdown: the differences of every pair, ± over records, and the commands.

    Args:
        definition: its columns are the figures.
        files: published comparisons and runs; those without a row here are left out.
        data: the folder of the published files, as the page links it.
    """
    mine = [
        (row, file)
        for file in files
        for row in file["rows"]
        if row.get("paired") == definition.rows
    ]
    mine.sort(key=lambda item: (item[0].get("order", 100), item[1]["name"]))
    if not mine:
        return NOTHING
    headings = ["", "edits", *(column.heading for column in definition.columns)]
    body = [cells for row, file in mine for cells in _rows(definition, row, file)]
    parts = [markdown_table(headings, body), '<details markdown="1"><summary>Commands</summary>\n']
    for _, file in mine:
        commits = ", ".join(f"{run['label']} `{run['commit'][:12]}`" for run in file["runs"])
        parts.append(
            f"[{file['name']}]({data}/{file['name']}.json): {commits}; seeds "
            f"{', '.join(map(str, file['seeds']))}, records {file['records'][0]}–"
            f"{file['records'][1]}\n\n```\n{file['command'].strip()}\n```\n"
        )
    return "\n".join([*parts, "</details>\n"])


def _rows(
    definition: Definition, row: Mapping[str, Any], file: Mapping[str, Any]
) -> Iterator[list[str]]:
    for pair in file["pairs"]:
        label = " ".join(filter(None, (row["row"], f"{pair['second']} − {pair['first']}")))
        cells = [label, f"{pair['edits']:,}"]
        for column in definition.columns:
            known = pair["figures"].get(column.figure)
            if known is None:
                cells.append("–")
                continue
            interval = known["over_records"]
            around = "" if interval is None else f" ± {cell(column.figure, interval)}"
            cells.append(f"{known['difference']:+.3f}{around}")
        yield cells
