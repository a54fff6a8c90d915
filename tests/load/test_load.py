"""The load test itself, small: real arrivals against two replicas while edits are committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from errata.cli import app

NAMES = {
    "suite",
    "ratio",
    "tokens_per_second",
    "ttft_ms",
    "itl_ms",
    "e2e_ms",
    "edit_visible_ms",
    "requests",
    "errors",
    "stale_answers",
    "mixed_version_answers",
    "commit",
}


@pytest.mark.promise("P5", "P6", "P7")
def test_under_load_no_answer_is_stale_mixed_or_lost(tmp_path: Path) -> None:
    options = ["--seconds", "10", "--rate", "10", "--edit-rate", "1", "--replicas", "2"]
    command = ["bench", "serve", "--suite", "load", "--out", str(tmp_path), *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "result.json").read_text())
    assert found.keys() >= NAMES
    assert found["requests"] > 40
    assert found["errors"] == 0, found["errors_by_status"]
    assert found["lost_requests"] == 0
    assert found["stale_answers"] == 0
    assert found["mixed_version_answers"] == 0
    assert found["wrong_after_edit"] == 0
    assert found["replicas_seen"] == 2
    assert found["edits_committed"] > 0
    assert found["read_your_writes_requests"] > 0
    assert found["edit_visible_ms"]["all"]["p50"] > 0
    assert found["edits_not_visible_in_time"] == 0
    assert (tmp_path / "load.png").stat().st_size > 1_000
