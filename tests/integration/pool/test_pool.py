"""What the gateway's pool does with a request that kills its replica, on a real Ray cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[3]


def test_a_poisonous_request_kills_one_replica_and_other_requests_go_elsewhere(
    tmp_path: Path,
) -> None:
    """The next replica was tried with it: one request could end the whole pool."""
    notes, written = tmp_path / "notes", tmp_path / "found"
    command = [sys.executable, "-m", "tests.integration.pool.poisoned", str(notes), str(written)]
    subprocess.run(command, cwd=ROOT, timeout=PATIENCE, check=True)
    found = json.loads(written.read_text())
    assert found == {"after": ["answered"], "poisoned": "only by the caller", "times": 1}
