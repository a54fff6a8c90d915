"""The page of the command line: every command with its arguments and options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from tools.docs_site.text import cell, document, table

from errata.cli import app

_INTRODUCTION = """# Command line

Made from the commands themselves: `errata COMMAND --help` says the same. Commands that call a
running system take defaults from the environment, see [operations](../operations.md#settings)."""


def page() -> str:
    """The page as Markdown."""
    return document(_INTRODUCTION, *_commands(typer.main.get_command(app), "errata", None))


def _commands(command: Any, path: str, parent: Any) -> Iterator[str]:
    """A command and the commands below it, depth first."""
    name = path.rpartition(" ")[2]
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    yield f"## `{path}` {{ #{path.replace(' ', '-')} }}"
    yield _plain(command.help or "")
    yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```"
    yield table(("argument", "what"), _rows(command, context, "argument"))
    yield table(("option", "what"), _rows(command, context, "option"))
    for below, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, f"{path} {below}", context)


def _rows(command: Any, context: Any, kind: str) -> Iterator[tuple[str, str]]:
    for parameter in command.get_params(context):
        if parameter.param_type_name != kind or parameter.hidden:
            continue
        record = parameter.get_help_record(context)
        if record is None:
            continue
        names, text = record
        yield f"`{names}`".replace("|", "\\|"), cell(text.replace(str(Path.home()), "~"))


def _plain(text: str) -> str:
    """A command's docstring; its paragraphs stay apart."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
