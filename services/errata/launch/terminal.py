"""Consoles of the commands."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from errata.platform.plain import shown

_PIPED_COLUMNS = 200


class PlainConsole(Console):
    """A console on which a string is one line of text: neither markup nor emoji codes are read.

    Styles and line breaks are given by objects of rich, such as those of `errata.launch.output`.
    """

    def __init__(self, **options: Any) -> None:
        """Takes rich's options."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The string as rich prints it, alone or in a table."""
        return super().render_str(shown(text), **options)


def console(*, stderr: bool = False) -> PlainConsole:
    """Standard output or error; in a pipe or a file, lines are wide enough for tables.

    `COLUMNS` overrides the width.
    """
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):  # the terminal's encoding can lack a character
        stream.reconfigure(errors="backslashreplace")
    has_width = stream.isatty() or "COLUMNS" in os.environ
    return PlainConsole(stderr=stderr, width=None if has_width else _PIPED_COLUMNS)
