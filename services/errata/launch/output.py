"""Prints a command's result: as JSON, or as text for a terminal."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from errata.launch.terminal import console

T = TypeVar("T")


class TextTable(Table):
    """A table whose strings are plain text: a name from outside can look like markup."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Adds a row of strings and of other things that rich can show."""
        super().add_row(*(Text(c) if isinstance(c, str) else c for c in cells), **options)


def print_result(as_json: bool, value: T, render: Callable[[T], RenderableType]) -> None:
    """Prints a command's result on standard output.

    Args:
        as_json: whether as JSON.
        value: one of the SDK's values, or a list of them.
        render: how the value looks on a terminal.
    """
    if as_json:
        print_json(console(), value)
    else:
        console().print(render(value))


def print_json(out: Console, value: Any) -> None:
    """Prints any of the SDK's values, or a list of them, as JSON."""
    out.print_json(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
