"""Typed access to JSON records, with errors that name the file, the record and the field."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from errata.errors import InvalidRequestError


def read_text(path: Path) -> str:
    """The whole file.

    Raises:
        InvalidRequestError: it cannot be read as UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(
            f"{path} cannot be read ({error.strerror}); give the path of a data file.", field="data"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{path} is not UTF-8 text: {error}.", field="data") from error


def read_array(path: Path) -> Iterator[Fields]:
    """The records of a file that holds one JSON array.

    Raises:
        InvalidRequestError: the file is missing, is not JSON, or is not a non-empty array of
            objects.
    """
    items = _read_json(path)
    if not isinstance(items, list) or not items:
        raise InvalidRequestError(f"{path} contains no JSON array of records.", field="data")
    return (Fields(item, f"{path}, record {number}") for number, item in enumerate(items))


def read_object(path: Path) -> Fields:
    """The record of a file that holds one JSON object.

    Raises:
        InvalidRequestError: the file is missing or is not a JSON object.
    """
    return Fields(_read_json(path), str(path))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise InvalidRequestError(f"{path} is not JSON: {error}.", field="data") from error


def read_lines(path: Path) -> Iterator[Fields]:
    """The records of a file with one JSON object per line; blank lines are skipped.

    Raises:
        InvalidRequestError: the file is missing or has no record, or a line is not a JSON object.
    """
    lines = [
        (number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()
    ]
    if not lines:
        raise InvalidRequestError(f"{path} contains no record.", field="data")
    for number, line in lines:
        try:
            item = json.loads(line)
        except ValueError as error:
            raise InvalidRequestError(
                f"{path}, line {number}: is not JSON: {error}.", field="data"
            ) from error
        yield Fields(item, f"{path}, line {number}")


def read_paragraphs(path: Path) -> list[str]:
    """The lines of a plain text file that are not blank.

    Raises:
        InvalidRequestError: the file cannot be read or has no such line.
    """
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise InvalidRequestError(f"{path} contains no text.", field="text")
    return lines


class Fields:
    """One JSON object; every getter raises `InvalidRequestError` if the field is unusable."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise InvalidRequestError(f"{where}: is not a JSON object.", field="data")
        self._values: dict[str, Any] = values
        self._where = where

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def has_items(self, name: str) -> bool:
        """Whether the field is a non-empty list."""
        return isinstance(self._values.get(name), list) and bool(self._values[name])

    def is_blank(self, name: str) -> bool:
        """Whether the field is an empty or blank text."""
        value = self._values.get(name)
        return isinstance(value, str) and not value.strip()

    def error(self, name: str, problem: str) -> InvalidRequestError:
        """The error about a field."""
        return InvalidRequestError(f"{self._where}, field {name}: {problem}.", field="data")

    def text(self, name: str) -> str:
        """A non-blank text, without surrounding white space, in NFC as services store it."""
        value = self._values.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, "must be a text that is not empty")
        return _clean(value)

    def raw_text(self, name: str, default: str) -> str:
        """A text as it is, which can be empty; the default if the field is missing."""
        value = self._values.get(name, default)
        if not isinstance(value, str):
            raise self.error(name, "must be a text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A non-empty list of texts, as `text` gives them."""
        value = self._values.get(name)
        if not isinstance(value, list) or not value:
            raise self.error(name, "must be a list of texts")
        if not all(isinstance(item, str) and item.strip() for item in value):
            raise self.error(name, "contains an item that is empty or not a text")
        return tuple(_clean(item) for item in value)

    def optional_texts(self, name: str) -> tuple[str, ...]:
        """A non-empty list of texts, as `text` gives them; empty if the field is missing."""
        return self.texts(name) if name in self else ()

    def number(self, name: str) -> int:
        """A whole number."""
        value = self._values.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(name, "must be a whole number")
        return value

    def numbers(self) -> dict[str, float]:
        """The number of each field, whose names are texts as `text` gives them."""
        found: dict[str, float] = {}
        for name, value in self._values.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise self.error(name, "must be a number")
            if not (text := _clean(name)) or text in found:
                raise self.error(repr(name), "must be a name of its own that is not empty")
            found[text] = value
        return found

    def inner(self, name: str) -> Fields:
        """A JSON object."""
        return Fields(self._values.get(name), f"{self._where}, field {name}")

    def inners(self, name: str) -> list[Fields]:
        """A list of JSON objects, which can be empty."""
        value = self._values.get(name)
        if not isinstance(value, list):
            raise self.error(name, "must be a list of objects")
        return [
            Fields(item, f"{self._where}, field {name}[{number}]")
            for number, item in enumerate(value)
        ]

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """A text out of `choices`."""
        value = self.text(name)
        if value not in choices:
            raise self.error(name, f"is {value!r}; must be one of {', '.join(choices)}")
        return value


def _clean(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


def check_subject(fields: Fields, subject: str, prompt: str) -> None:
    """Checks that the subject occurs in the prompt.

    Raises:
        InvalidRequestError: it does not.
    """
    if subject not in prompt:
        raise fields.error("subject", f"{subject!r} does not occur in the prompt {prompt!r}")
