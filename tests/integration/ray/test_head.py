"""Workers join the Ray head that they start, whatever else runs on the machine."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from ray.util import get_node_ip_address

from errata.platform.addresses import free_port
from tests.waiting import PATIENCE

_WORKERS = """
from errata.platform.ray_access import restrict_ray
from errata.platform.settings import load_settings
settings = load_settings()
restrict_ray("workers", settings)
import ray
from errata.worker.cluster import joined_head
with joined_head(settings):
    answer = ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote())
    print(ray.get_runtime_context().gcs_address, answer)
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_head_is_joined_by_its_own_address(host: str, tmp_path: Path) -> None:
    port = free_port()
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "ERRATA_WORKER__RAY_ADDRESS": f"{host}:{port}",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # What Ray takes for the cluster of this machine: here nothing is there.
        "RAY_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    done = subprocess.run(
        [sys.executable, "-c", _WORKERS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    own = get_node_ip_address() if host == "0.0.0.0" else host  # type: ignore[no-untyped-call]
    assert f"{own}:{port} 42" in done.stdout, done.stdout + done.stderr
