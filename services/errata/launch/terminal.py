"""Consoles of the commands."""

from __future__ import annotations

import os
import sys

from rich.console import Console

_PIPED_COLUMNS = 200


def console(*, stderr: bool = False) -> Console:
    """Standard output or error; in a pipe or a file, lines are wide enough for tables.

    `COLUMNS` overrides the width.
    """
    stream = sys.stderr if stderr else sys.stdout
    has_width = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if has_width else _PIPED_COLUMNS)
