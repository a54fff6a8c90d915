"""The short form of the fault suite, a few faults of each kind; `make robustness` is long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.robustness.runs import run_log, run_system

_SEED = 24


@pytest.mark.promise("P1", "P2", "P3", "P4")
@pytest.mark.parametrize("drops", [False, True], ids=["kills", "lost-writes"])
def test_the_log_keeps_its_promises(tmp_path: Path, drops: bool) -> None:
    result = run_log(tmp_path, seconds=0, rounds=8, seed=_SEED, drops=drops)
    assert result.violations == []


@pytest.mark.promise("P2", "P5", "P6", "P7", "P9", "P10", "P11")
def test_the_whole_system_keeps_its_promises(tmp_path: Path) -> None:
    result = run_system(tmp_path, seconds=0, rounds=10, seed=_SEED)
    assert result.violations == []
    assert "heal_to_converged_seconds" in result.figures, "the replicas agreed with the log"
