"""`errata up` that does not come to its end: ended by Ctrl-C, or given another model's folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from errata.launch.box import free_addresses
from tests.ports import address_variables
from tests.waiting import PATIENCE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_start_that_is_interrupted_leaves_nothing_running(tmp_path: Path, number: int) -> None:
    addresses = address_variables(free_addresses())
    process = subprocess.Popen(
        [sys.executable, "-m", "errata.cli", "up", "--data-dir", str(tmp_path)],
        env={**os.environ, **addresses},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while "starting writer" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2, "Redis and the log"
    process.send_signal(number)
    rest, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, rest
    assert "interrupted before all services were up" in rest
    assert "Traceback" not in rest
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert not alive
