"""The long form of the fault suite: runs of all kinds in turns, and their figures as JSON.

python -m tests.robustness --rounds 3 --seconds 60 --seed 1 --output build/robustness.json
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.robustness.runs import Result, run_log, run_system

KINDS: dict[str, Callable[..., Result]] = {
    "log": run_log,
    "drops": partial(run_log, drops=True),
    "system": run_system,
    "sweep-log": partial(run_log, sweeps=True),
    "sweep-system": partial(run_system, sweeps=True),
}
"""Kinds of runs; sweeps take as long as all failpoints take, and are not among the default."""


def main() -> int:
    """Returns 0 if no run broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults in each run")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; counts up")
    parser.add_argument("--kinds", default="log,drops,system", help=f"which of {', '.join(KINDS)}")
    parser.add_argument("--output", type=Path, default=Path("build/robustness.json"))
    parser.add_argument("--append", action="store_true", help="to the runs in the output")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    if options.append and options.output.exists():
        runs = json.loads(options.output.read_text())["runs"]
    for number in range(options.rounds):
        for kind in options.kinds.split(","):
            runs.append(_run(kind, options.seconds, options.seed + number))
            _write(options.output, runs)
    failed = [run for run in runs if run["violations"]]
    print(f"{len(runs) - len(failed)} of {len(runs)} runs kept every promise")  # noqa: T201
    return 1 if failed else 0


def _run(kind: str, seconds: float, seed: int) -> dict[str, Any]:
    """One run; its folder stays if it broke a promise."""
    folder = Path(tempfile.mkdtemp(prefix=f"robustness-{kind}-"))
    begun = time.monotonic()
    result = KINDS[kind](folder, seconds=seconds, seed=seed)
    took = round(time.monotonic() - begun, 1)
    verdict = "kept" if not result.violations else f"BROKEN, see {folder}"
    acknowledged = result.figures["acknowledged"]
    print(  # noqa: T201
        f"{kind} seed {seed}: {took} s, {num_kills(result.figures)} kills, "
        f"{acknowledged} acknowledged: {verdict}",
        *result.violations[:10],
        sep="\n  ",
        flush=True,
    )
    if not result.violations:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "kind": kind,
        "seed": seed,
        "seconds": took,
        "violations": result.violations,
        **result.figures,
    }


def num_kills(figures: dict[str, Any]) -> int:
    """Processes that were killed, by signal or by a failpoint."""
    return sum(n for name, n in figures["faults"].items() if name.endswith("kill"))


def totals(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums over runs."""
    counted = (
        *("acknowledged", "refused", "unknown", "grants", "answers", "answers_with_min_seq"),
        *("delivered", "witnesses", "retries", "seconds", "kills_that_lost_unsynced_data"),
    )
    sums: dict[str, Any] = {name: sum(run.get(name, 0) for run in runs) for name in counted}
    faults: Counter[str] = Counter()
    points: Counter[str] = Counter()
    deaths: Counter[str] = Counter()
    for run in runs:
        faults.update(run["faults"])
        points.update(run["failpoints"])
        deaths.update(run.get("failpoint_deaths", {}))
    return sums | {
        "runs": len(runs),
        "broken": sum(bool(run["violations"]) for run in runs),
        "kills": sum(map(num_kills, runs)),
        "faults": dict(sorted(faults.items())),
        "failpoints": dict(sorted(points.items())),
        "failpoint_deaths": dict(sorted(deaths.items())),
    }


def _write(path: Path, runs: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "machine": f"{platform.machine()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "totals": totals(runs),
        "runs": list(runs),
    }
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
