"""`errata …` as a user types it, in this process: its imports are paid for once.

A process of its own proves that the command can be started; one test of each kind does so.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest
import structlog

from errata.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def run_here(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Done:
    """Runs the entry point, where errors are told in words."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["errata", *command])
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:  # a service sends its log to what is standard error now
            structlog.reset_defaults()
            structlog.contextvars.clear_contextvars()
    return Done(code, out.getvalue(), err.getvalue())
