"""The page's tables come from figures, and a promise that was broken shows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.robustness import report
from tests.robustness.__main__ import totals

_BUGS = [
    {"name": "a", "promise": "P2", "check": "x.py::test_a", "caught": True},
    {"name": "b", "promise": "P2", "check": "x.py::test_b", "caught": False},
]


def _run(**changes: Any) -> dict[str, Any]:
    counted = ("acknowledged", "refused", "unknown", "grants", "answers", "answers_with_min_seq")
    run: dict[str, Any] = dict.fromkeys((*counted, "delivered", "witnesses", "retries"), 1_000)
    run |= {"kind": "log", "seed": 1, "seconds": 60.0, "violations": []}
    run |= {"faults": {"log kill": 7, "log failpoint-kill": 2, "redis stop": 4}, "failpoints": {}}
    return run | changes


def test_totals_are_sums() -> None:
    found = totals([_run(), _run(violations=["P1: x"])])
    assert (found["runs"], found["broken"], found["kills"]) == (2, 1, 18)
    assert found["acknowledged"] == 2_000
    assert found["faults"] == {"log failpoint-kill": 4, "log kill": 14, "redis stop": 8}


def test_each_promise_has_its_row() -> None:
    lines = report.promise_table(totals([_run()]), _BUGS)
    assert len(lines) == 2 + 12
    (row,) = [line for line in lines if line.startswith("| P2 ")]
    assert "1,000 changes acknowledged, 9 kills | 3.0e-03, 3.3e-01 | 1 of 2 |" in row
    assert "robustness/checks/test_log.py" in row


def test_the_other_tables() -> None:
    runs = [_run(violations=["P1: x"]), _run(kind="system")]
    assert "| 1 × log | 60 | 9 | 1,000 | 1,000 | 1,000 | 1 |" in report.run_table(runs)
    assert "| redis | 0 | 0 | 8 |" in report.fault_table(totals(runs))
    assert report.bug_table(_BUGS)[-1] == "| b | P2 | **no** | `test_b` |"
    spread = {"p50": 0.5, "p99": 1.0, "max": 2.0, "num": 10}
    with_figures = [
        _run(kill_to_acknowledged_seconds=spread),
        _run(restart_to_acknowledged_seconds=spread, heal_to_converged_seconds=0.2),
        _run(heal_to_converged_seconds=0.4),
    ]
    _, _, killed, restarted, converged = report.recovery_table(with_figures)
    assert killed.startswith("| kill → ")
    assert killed.endswith("| log | 10 | 0.50 s | 1.00 s | 2.00 s |")
    assert restarted.startswith("| start of what was killed → ")
    assert converged.endswith("| system | 2 | 0.30 s | 0.40 s | 0.40 s |")


def test_the_page_has_a_place_for_each_table() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    names = ("summary", "promises", "runs", "faults", "recovery", "bugs")
    again = report.filled(page, {name: ["new"] for name in names})
    assert again.count("-->\nnew\n<!--") == len(names)
    with pytest.raises(ValueError, match="0 places for nothing"):
        report.filled(page, {"nothing": []})
