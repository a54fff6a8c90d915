"""Writes all edits, with state, figures and provenance, in formats that `errata import` reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from errata.bulk.columns import EXPORTED, LISTS, TIMES
from errata.errors import InvalidRequestError, StartupError
from errata_client import Edit

FORMATS = ("jsonl", "csv", "parquet")
_FIELDS = (
    "prompt",
    "target",
    "subject",
    *LISTS,
    "source",
    "separator",
    *TIMES,
    "namespace",
    "canary",
)


def export(edits: Iterable[Edit], path: Path, kind: str) -> int:
    """Writes a file, whole or not at all; returns the number of edits.

    Args:
        edits: to write.
        path: of the file, which is replaced.
        kind: one of `FORMATS`.

    Raises:
        InvalidRequestError: the file cannot be written.
        StartupError: Parquet, and its library is not installed.
    """
    write: dict[str, Callable[[Iterable[Edit], Path], int]] = {
        "jsonl": _write_lines,
        "csv": _write_table,
        "parquet": _write_parquet,
    }
    part = path.with_name(f"{path.name}.part")
    try:
        number = write[kind](edits, part)
        part.replace(path)
    except OSError as error:
        raise InvalidRequestError(
            f"{path} cannot be written ({error.strerror}).", field="out"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return number


def flat(edit: Edit) -> dict[str, Any]:
    """An edit as named values: the fields of its correction, then what became of it."""
    spec, figures = edit.spec, edit.figures
    found = {
        **{field: getattr(spec, field) for field in _FIELDS},
        **{name: getattr(edit, name) for name in EXPORTED if hasattr(edit, name)},
        **{
            name: None if figures is None else getattr(figures, name)
            for name in ("reliability", "generality", "locality", "already_answered")
        },
        "state": edit.state.name.lower(),
        "request_time": edit.request_time.isoformat(),
    }
    for field in TIMES:
        found[field] = found[field] and found[field].isoformat()
    for field in ("prompt", *LISTS):
        found[field] = _plain(found[field])
    return {name: found[name] for name in (*_FIELDS, *EXPORTED)}


def _plain(value: Any) -> Any:
    """Texts as they are; conversations as JSON, which `errata import` reads again."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return json.dumps([{"role": turn.role, "content": turn.content} for turn in value.messages])


def _write_lines(edits: Iterable[Edit], path: Path) -> int:
    number = 0
    with path.open("w", encoding="utf-8") as file:
        for edit in edits:
            file.write(json.dumps(flat(edit), ensure_ascii=False) + "\n")
            number += 1
    return number


def _write_table(edits: Iterable[Edit], path: Path) -> int:
    number = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, (*_FIELDS, *EXPORTED))
        writer.writeheader()
        for edit in edits:
            row = flat(edit)
            lists = {field: json.dumps(row[field], ensure_ascii=False) for field in LISTS}
            writer.writerow(row | lists)
            number += 1
    return number


def _write_parquet(edits: Iterable[Edit], path: Path) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise StartupError(
            "Parquet files need pyarrow; install `errata[parquet]`, or choose --format jsonl."
        ) from error
    rows = [flat(edit) for edit in edits]
    table = pyarrow.Table.from_pylist(rows, schema=_schema(pyarrow))
    parquet.write_table(table, path)
    return len(rows)


def _schema(pyarrow: Any) -> Any:
    kinds = dict.fromkeys((*_FIELDS, *EXPORTED), pyarrow.string())
    kinds |= dict.fromkeys(LISTS, pyarrow.list_(pyarrow.string()))
    kinds |= dict.fromkeys(("commit_seq", "revert_seq", "artifact_size"), pyarrow.int64())
    kinds |= dict.fromkeys(("reliability", "generality", "locality"), pyarrow.float64())
    kinds |= dict.fromkeys(("already_answered", "subject_found"), pyarrow.bool_())
    return pyarrow.schema(list(kinds.items()))
