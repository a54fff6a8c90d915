"""Reads tables: CSV, JSON lines, JSON arrays and Parquet, as records of named values."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from errata.errors import InvalidRequestError, StartupError

Record = Mapping[str, Any]
_MAX_CELL_CHARS = 10_000_000  # csv's own limit is shorter than a long list of rephrasings


def read_table(path: Path, kind: str, encoding: str) -> Iterator[Record]:
    """The records of a file.

    Args:
        path: of the file.
        kind: `csv`, `tsv`, `jsonl`, `json` or `parquet`.
        encoding: of a text file.

    Raises:
        InvalidRequestError: it cannot be read; the message says where and why.
        StartupError: Parquet, and its library is not installed.
    """
    match kind:
        case "parquet":
            return _parquet(path)
        case "csv" | "tsv":
            return _separated(path, _text(path, encoding), "," if kind == "csv" else "\t")
        case "jsonl":
            return _lines(path, _text(path, encoding))
        case _:
            return _array(path, _text(path, encoding))


def _text(path: Path, encoding: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(
            f"{path} cannot be read ({error.strerror}).", field="file"
        ) from error
    try:
        # A byte order mark is no part of the first column's name.
        return data.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidRequestError(
            f"{path}, line {line}: byte {error.start} is not {encoding} text. Name the file's "
            "encoding with --encoding, such as cp1252 or utf-16.",
            field="encoding",
        ) from error
    except LookupError as error:
        raise InvalidRequestError(
            f"Python knows no encoding {encoding!r}; utf-8, cp1252 and utf-16 are some.",
            field="encoding",
        ) from error


def _separated(path: Path, text: str, separator: str) -> Iterator[Record]:
    csv.field_size_limit(_MAX_CELL_CHARS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = next(reader, [])
        if not any(name.strip() for name in names):
            raise InvalidRequestError(f"{path} has no header.", field="file")
        names = [name.strip() for name in names]
        if len(set(names)) < len(names):
            raise InvalidRequestError(f"{path}: two columns have the same name.", field="file")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                raise InvalidRequestError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells for {len(names)} columns. "
                    "Quote cells that contain the separator.",
                    field="file",
                )
            # A table cannot tell an empty text from none.
            yield {name: cell or None for name, cell in zip(names, cells, strict=True)}
    except csv.Error as error:
        raise InvalidRequestError(
            f"{path}, line {reader.line_num}: {error}.", field="file"
        ) from error


def _lines(path: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _object(_parsed(f"{path}, line {number}", line), f"{path}, line {number}")


def _array(path: Path, text: str) -> Iterator[Record]:
    items = _parsed(str(path), text)
    if not isinstance(items, list):
        raise InvalidRequestError(f"{path} is not a JSON array of records.", field="file")
    return (_object(item, f"{path}, record {number}") for number, item in enumerate(items, 1))


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{where}: not JSON: {error}.", field="file") from error


def _object(item: Any, where: str) -> Record:
    if not isinstance(item, dict):
        raise InvalidRequestError(f"{where} is not a JSON object.", field="file")
    return item


def _parquet(path: Path) -> Iterator[Record]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise StartupError(
            "Parquet files need pyarrow; install `errata[parquet]`, or convert the file to CSV."
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (OSError, ArrowException) as error:
        raise InvalidRequestError(
            f"{path} is not a Parquet file: {error}.", field="file"
        ) from error
