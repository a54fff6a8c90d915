"""Prints a command's result: as JSON, or as text for a terminal."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

from errata.launch.terminal import console
from errata.platform.plain import shown, shown_json, shown_lines

T = TypeVar("T")


class TextTable(Table):
    """A table whose strings are plain text: a name from outside can look like markup."""

    def __init__(self, *columns: str, title: str | Text | None = None, **options: Any) -> None:
        """Takes rich's options; a title is plain text, too."""
        if isinstance(title, str):
            title = line((title, "table.title"))
        super().__init__(*columns, title=title, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Adds a row of strings and of other things that rich can show."""
        super().add_row(*(line(c) if isinstance(c, str) else c for c in cells), **options)


def line(*parts: str | tuple[str, str] | Text) -> Text:
    """One line of plain text, which a text from outside cannot end.

    Args:
        parts: strings, with or without a style, which are escaped; texts of rich stay as they are.
    """
    made = Text()
    for part in parts:
        if isinstance(part, Text):
            made.append_text(part)
        else:
            string, style = (part, "") if isinstance(part, str) else part
            made.append(shown(string), style)
    return made


def lines(texts: Iterable[Text]) -> Text:
    """Texts below one another, as one text."""
    return Text("\n").join(texts)


def quoted(text: str, style: str = "") -> Text:
    """A text with its own line breaks; a bar marks each line after the first.

    Without the bar, a line of the text could be taken for one of the command.
    """
    first, *others = text.split("\n")
    return lines([line((first, style)), *(line(("│ ", "dim"), (more, style)) for more in others)])


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


def print_document(text: str) -> None:
    """Prints a text of several lines as it is, whatever the width of the terminal."""
    console().print(Text(shown_lines(text)), soft_wrap=True)


def print_json(out: Console, value: Any) -> None:
    """Prints any of the SDK's values, or a list of them, as JSON with equal strings."""
    is_unicode = out.encoding.lower().startswith("utf")
    document = json.dumps(value, default=_plain, indent=2, ensure_ascii=not is_unicode)
    out.print(JSONHighlighter()(Text(shown_json(document))), soft_wrap=True)


def print_json_line(value: Any) -> None:
    """Prints one of the SDK's values as JSON on one line."""
    out = console()
    is_unicode = out.encoding.lower().startswith("utf")
    document = json.dumps(value, default=_plain, ensure_ascii=not is_unicode)
    out.print(JSONHighlighter()(Text(shown_json(document))), soft_wrap=True)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
