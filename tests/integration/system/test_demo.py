"""`errata demo` with the model that the repository contains."""

import subprocess
import sys

from tests.waiting import PATIENCE


def test_the_demo_holds_and_leaves_nothing_running() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "errata.cli", "demo", "--model", "tiny"],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all checks passed" in done.stdout
    assert "✗" not in done.stdout
