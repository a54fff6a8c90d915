"""`errata bench scale`: starts from the first entry, and from a snapshot of the same state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from errata.evaluation.scale_bench import ScalePlan, run
from errata.log.methods import METHODS


@pytest.mark.parametrize("method", sorted(METHODS))
def test_each_method_is_measured(tmp_path: Path, method: str) -> None:
    found = run([ScalePlan(method, (10,), batch=5)], tmp_path, Console(quiet=True))
    (point,) = found["points"]
    assert point["edits"] == 10
    assert point["entries"] >= 5, "a lane, and two requests with their commits"
    for name in ("fold_seconds", "start_seconds", "snapshot_seconds", "catch_up_ms", "revert_ms"):
        assert point[name] > 0, name
    parts = [point[f"worker_{name}_seconds"] for name in ("imports", "model", "state", "answer")]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(point["worker_start_seconds"])
    assert (point["routing_ms"] is None) == (method == "adaple")
    assert json.loads((tmp_path / "result.json").read_text())["points"] == found["points"]
