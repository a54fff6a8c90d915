"""The whole system as a user starts it: real Redis, gRPC and two Ray Serve replicas."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from errata.launch.box import free_addresses
from errata.platform.addresses import free_port
from errata_client import Client
from tests.waiting import PATIENCE

# Short enough for a flood to fill it on any machine, long enough for `errata bench edit`, which has
# 64 requests under way.
MAX_QUEUE = 64


@dataclass
class System:
    """A running system."""

    target: str
    log_address: str
    writer_address: str
    data_dir: Path
    home: Path
    worker_metrics: str = ""
    http_url: str = ""


@pytest.fixture(scope="package")
def system(tmp_path_factory: pytest.TempPathFactory, statistics_cache: Path) -> Iterator[System]:
    """Started by `errata up`, ended by Ctrl-C, which must leave nothing running."""
    folder = tmp_path_factory.mktemp("system")
    (folder / "data").mkdir()
    (folder / "data/statistics").symlink_to(statistics_cache)
    addresses = free_addresses()
    home = folder / "home"
    home.mkdir()
    environment = {
        "HOME": str(home),
        "ERRATA_LOG__ADDRESS": addresses["log"]["address"],
        "ERRATA_WRITER__ADDRESS": addresses["writer"]["address"],
        "ERRATA_CATALOG__ADDRESS": addresses["catalog"]["address"],
        "ERRATA_GATEWAY__HTTP_ADDRESS": addresses["gateway"]["http_address"],
        "ERRATA_WORKER__MAX_QUEUE": str(MAX_QUEUE),
        "ERRATA_WORKER__METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
        # Fits in a test's own process give the same digits with as many threads.
        "ERRATA_WRITER__NUM_THREADS": "1",
    }
    target = addresses["gateway"]["address"]
    command = [sys.executable, "-m", "errata.cli", "up", "--data-dir", str(folder / "data")]
    command += ["--console"]
    process = subprocess.Popen(
        [*command, "--address", target],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    deadline = time.monotonic() + PATIENCE
    while "Errata is up" not in said:
        line = process.stdout.readline()
        said += line
        assert line, f"errata up ended:\n{said}"
        assert time.monotonic() < deadline, said
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) > 4
    try:
        yield System(
            target,
            environment["ERRATA_LOG__ADDRESS"],
            environment["ERRATA_WRITER__ADDRESS"],
            folder / "data",
            home,
            environment["ERRATA_WORKER__METRICS_ADDRESS"],
            f"http://{environment['ERRATA_GATEWAY__HTTP_ADDRESS']}",
        )
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, rest
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert not alive, f"errata up left {[child.cmdline() for child in alive]} running"


@pytest.fixture
def client(system: System) -> Iterator[Client]:
    with Client(system.target, timeout=PATIENCE) as client:
        yield client
