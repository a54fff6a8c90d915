"""Runs `errata …` as a user types it, in this process, so that imports are loaded only once.

Only a separate process proves that a command can be started; one test of each kind starts one.
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
    """A command's exit code and output."""

    returncode: int
    stdout: str
    stderr: str


def run_here(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Done:
    """Runs the entry point, which prints errors as messages."""
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
        finally:  # a service has configured logging to the present standard error
            structlog.reset_defaults()
            structlog.contextvars.clear_contextvars()
    return Done(code, out.getvalue(), err.getvalue())
