"""The routing benchmark at small sizes."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from errata.evaluation.route_bench import RoutePlan, run


def test_it_measures_both_searches_and_recall(tmp_path: Path) -> None:
    plan = RoutePlan((200, 2_000), width=64, batch=8, rounds=5)
    found = run(plan, tmp_path, Console(quiet=True))
    assert json.loads((tmp_path / "result.json").read_text())["points"] == found["points"]
    small, large = found["points"]
    assert (small["keys"], large["keys"]) == (200, 2_000)
    for point in (small, large):
        assert 0 < point["exact_ms"]["p50"] <= point["exact_ms"]["p99"]
        assert 0 < point["lists_ms"]["p50"] <= point["lists_ms"]["p99"]
        assert 0.5 < point["recall_at_1"] <= 1
        assert point["right_at_1"] > 0.5
        assert point["lists_seconds"] > 0
        assert 0 < point["codes_ms"]["p50"] <= point["codes_ms"]["p99"]
        assert point["codes_seconds"] > 0
    assert small["recall_at_1"] == pytest.approx(1.0), "few lists, all of them probed"
