"""Reads a file of corrections in any of the formats that `errata import` takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from errata.bulk.columns import Columns, Corrections
from errata.bulk.row import Row
from errata.bulk.tables import read_table
from errata.errors import InvalidRequestError
from errata.evaluation.data.counterfact import load_counterfact
from errata.evaluation.data.record import Record
from errata.evaluation.data.zsre import load_zsre
from errata_client import EditSpec

TABLES = ("csv", "tsv", "jsonl", "json", "parquet")
_DATA_SETS: dict[str, Callable[[Path], list[Record]]] = {
    "counterfact": load_counterfact,
    "zsre": load_zsre,
}
FORMATS = (*TABLES, *_DATA_SETS)


def read_corrections(
    path: Path, columns: Columns, *, kind: str = "", encoding: str = "utf-8"
) -> Corrections:
    """Reads all of a file.

    Args:
        path: of the file.
        columns: of a table.
        kind: one of `FORMATS`; found by the file's name and content if empty.
        encoding: of a text file.

    Raises:
        InvalidRequestError: it cannot be read, or its format is not known.
        StartupError: Parquet, and its library is not installed.
    """
    kind = kind or _kind_of(path)
    if kind in _DATA_SETS:
        records = _DATA_SETS[kind](path)
        return Corrections([_row(number, one) for number, one in enumerate(records, 1)])
    found = columns.rows(read_table(path, kind, encoding), str(path))
    if not found.rows and not found.problems and not found.withdrawn:
        raise InvalidRequestError(f"{path} has no rows.", field="file")
    return found


def _row(number: int, record: Record) -> Row:
    probes = tuple(prompt for prompt, _ in record.locality)
    spec = EditSpec(record.prompt, record.target_new, record.subject, record.rephrases, probes)
    return Row(number, spec)


def _kind_of(path: Path) -> str:
    ending = path.suffix.lower().removeprefix(".")
    kind = {"ndjson": "jsonl", "pq": "parquet"}.get(ending, ending)
    if kind not in TABLES:
        raise InvalidRequestError(
            f"the format of {path.name} is not known; name it with --format: one of "
            f"{', '.join(FORMATS)}.",
            field="format",
        )
    return _data_set(path) or kind if kind == "json" else kind


def _data_set(path: Path) -> str:
    """The data set whose layout the file's first record has; empty if it is none."""
    try:
        first = json.loads(path.read_bytes())[0].keys()
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return ""  # a better message comes from whoever reads it as a table
    if "requested_rewrite" in first or {"target_new", "ground_truth"} <= first:
        return "counterfact"
    return "zsre" if {"src", "alt", "rephrase"} <= first else ""
