"""Runs a notebook of the documentation in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[3]
NOTEBOOKS = ROOT / "docs/notebooks"


def check_notebook(name: str, variables: Mapping[str, str]) -> None:
    """Its cells must not fail, and must print what the file has."""
    tool = str(ROOT / "tools/run_notebooks.py")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, tool, "--check", str(NOTEBOOKS / name)],
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
