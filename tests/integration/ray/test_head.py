"""Workers join the Ray head that they start, whatever else runs on the machine."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.util import get_node_ip_address

from errata.platform.addresses import free_port
from tests.waiting import PATIENCE

_WORKERS = """
import os, sys, threading, time
from errata.platform.ray_access import restrict_ray
from errata.platform.settings import load_settings
settings, other = load_settings(), load_settings({"worker": {"ray_address": sys.argv[1]}})
restrict_ray("workers", settings)
import ray
from errata.worker.cluster import head_node, joined_head

def mislead():  # as another cluster does that starts meanwhile, or is about to
    while True:
        with open(os.environ["RAY_TMPDIR"] + "/ray/ray_current_cluster", "w") as file:
            file.write("")
        time.sleep(0.01)

with head_node(other):
    threading.Thread(target=mislead, daemon=True).start()
    with joined_head(settings):
        answer = ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote())
        print(ray.get_runtime_context().gcs_address, answer)
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray makes sockets in it, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="head", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_head_is_joined_by_its_own_address(host: str, short_folder: Path) -> None:
    port = free_port()
    environment = {
        **os.environ,
        "HOME": str(short_folder),
        "RAY_TMPDIR": str(short_folder),
        "ERRATA_WORKER__RAY_ADDRESS": f"{host}:{port}",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ADDRESS": f"127.0.0.1:{free_port()}",  # nothing is there
    }
    done = subprocess.run(
        [sys.executable, "-c", _WORKERS, f"{host}:{free_port()}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    own = get_node_ip_address() if host == "0.0.0.0" else host  # type: ignore[no-untyped-call]
    assert f"{own}:{port} 42" in done.stdout, done.stdout + done.stderr
