"""From records of named values to corrections: which column is which field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from errata.bulk.row import Row
from errata.bulk.tables import Record
from errata.errors import InvalidRequestError
from errata.platform.typed import canary_of
from errata_client import Chat, ChatMessage, EditSpec

REQUIRED = ("prompt", "target")
LISTS = ("rephrases", "locality_probes")
TIMES = ("effective_from", "expires_at")
OPTIONAL = ("subject", "source", "separator", *TIMES, "namespace", "canary", *LISTS)
# What `errata export` writes beside the fields of a correction.
_WITHDRAWN = ("rejected", "reverted", "withdrawn", "proposed")
EXPORTED = (
    *("name", "state", "lane", "author", "request_time", "commit_seq", "revert_seq"),
    *("reliability", "generality", "locality", "already_answered"),
    *("artifact_digest", "artifact_size", "method", "base_model_digest"),
    *("error", "reason", "superseded_by", "subject_found"),
)


@dataclass(frozen=True, slots=True)
class Corrections:
    """What a file holds.

    Attributes:
        rows: its corrections.
        problems: rows that are none, in words.
        withdrawn: number of rows of an export that were rejected or reverted there.
    """

    rows: Sequence[Row]
    problems: Sequence[str] = ()
    withdrawn: int = 0


class Columns:
    """Maps the columns of a file to the fields of a correction."""

    def __init__(self, named: Mapping[str, str], *, ignore_others: bool = False) -> None:
        """Columns that are not named have the fields' own names.

        Args:
            named: field → column.
            ignore_others: whether columns that are no field are left out.

        Raises:
            InvalidRequestError: no such field.
        """
        fields = (*REQUIRED, *OPTIONAL)
        if unknown := sorted(set(named) - set(fields)):
            raise InvalidRequestError(
                f"there is no field {unknown[0]!r}; choose one of {', '.join(fields)}.",
                field="column",
            )
        self._of = {field: named.get(field, field) for field in fields}
        self._texts = [(field, name) for field, name in self._of.items() if field not in LISTS]
        self._explicit = frozenset(named)
        self._ignore_others = ignore_others

    def rows(self, records: Iterable[Record], where: str) -> Corrections:
        """The corrections of a file.

        Args:
            records: of the file.
            where: the file, for messages.

        Raises:
            InvalidRequestError: a column is missing, or there is one that is no field.
        """
        rows: list[Row] = []
        problems: list[str] = []
        withdrawn = 0
        checked: frozenset[str] = frozenset()
        for number, record in enumerate(records, 1):
            if record.keys() != checked:  # lines of JSON may each have other names
                self._check_names(record, where)
                checked = frozenset(record)
            if record.get("state") in _WITHDRAWN and "commit_seq" in record:
                withdrawn += 1  # of an export
                continue
            try:
                lane = _text("lane", record.get("lane"))
                rows.append(Row(number, self._spec(record), lane))
            except ValueError as error:
                problems.append(f"row {number}: {error}")
        return Corrections(rows, problems, withdrawn)

    def _check_names(self, record: Record, where: str) -> None:
        has = ", ".join(map(repr, record)) or "none"
        for field in (*REQUIRED, *sorted(self._explicit)):
            if self._of[field] not in record:
                raise InvalidRequestError(
                    f"{where} has no column {self._of[field]!r} for {field}; it has {has}. Name "
                    f"the column with --column {field}=NAME.",
                    field="column",
                )
        others = set(record) - set(self._of.values()) - set(EXPORTED)
        if others and not self._ignore_others:
            raise InvalidRequestError(
                f"{where} has columns that are no field: {', '.join(map(repr, sorted(others)))}. "
                "Map them with --column FIELD=NAME, or leave them out with --ignore-other-columns.",
                field="column",
            )

    def _spec(self, record: Record) -> EditSpec:
        texts = {field: _text(field, record.get(name)) for field, name in self._texts}
        for field in REQUIRED:
            if not texts[field].strip():
                raise ValueError(f"{field} is empty")
        prompt = _prompt(texts["prompt"])
        if isinstance(prompt, str) and texts["subject"] not in prompt:
            raise ValueError("the subject does not occur in the prompt")
        rephrases, probes = (_texts(field, record.get(self._of[field])) for field in LISTS)
        return EditSpec(
            prompt,
            texts["target"],
            texts["subject"],
            tuple(map(_prompt, rephrases)),
            tuple(map(_prompt, probes)),
            texts["source"],
            None if record.get(self._of["separator"]) is None else texts["separator"],
            _time("effective_from", texts["effective_from"]),
            _time("expires_at", texts["expires_at"]),
            texts["namespace"].strip(),
            canary_of(texts["canary"]),
        )


def _text(field: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):  # a year, in JSON or Parquet
        return str(value)
    raise ValueError(f"{field} is no text")


def _time(field: str, text: str) -> datetime | None:
    """A time as ISO 8601 writes it; None for an empty cell."""
    if not text.strip():
        return None
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(f"{field} is no time such as 2026-11-30T09:00+01:00") from error


def _texts(field: str, value: Any) -> tuple[str, ...]:
    """A list, or a cell with a JSON list or one text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"{field} begins with [ and is no JSON list") from error
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{field} is no list of texts")
    return tuple(value)


def _prompt(text: str) -> str | Chat:
    """A text, or the conversation that it is as JSON: a list of objects with role and content."""
    if not text.lstrip().startswith("[{"):
        return text
    try:
        turns = json.loads(text)
        return Chat(tuple(ChatMessage(turn["role"], turn["content"]) for turn in turns))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("a prompt begins with [{ and is no JSON list of messages") from error
