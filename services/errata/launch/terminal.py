"""Consoles for commands."""

from __future__ import annotations

import os
import sys

from rich.console import Console

_PIPED_COLUMNS = 200


def console(*, stderr: bool = False) -> Console:
    """Standard output or error; in a pipe or a file lines are as wide as tables need.

    `COLUMNS` sets another width.
    """
    stream = sys.stderr if stderr else sys.stdout
    narrow = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if narrow else _PIPED_COLUMNS)
