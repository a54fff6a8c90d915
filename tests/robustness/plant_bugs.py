"""Plants each bug in a copy of the package and runs its check, which must fail: caught n of n.

    python -m tests.robustness.plant_bugs [--only WORD] [--output FILE]

First the checks run against an unchanged copy, where all must pass: otherwise a failure with a bug
would say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.robustness.planted import BUGS, PACKAGE, Planted, plant

ROOT = Path(__file__).parents[2]
_PASSED, _FAILED = 0, 1  # pytest's exit statuses; others mean that nothing was tested
_SECONDS = 150
_TAIL = 600


def main() -> int:
    """Returns 0 if every bug was caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a word of the bugs' names")
    parser.add_argument("--output", type=Path, help="JSON; keeps what it has of other bugs")
    options = parser.parse_args()
    bugs = [bug for bug in BUGS if options.only in bug.name]
    checks = sorted({bug.check for bug in bugs})
    status, said = _run(None, checks)
    if status != _PASSED:
        print(f"the checks fail without a bug (status {status}):\n{said}")  # noqa: T201
        return 1
    outcomes: list[dict[str, Any]] = []
    for bug in bugs:
        begun = time.monotonic()
        status, said = _run(bug, [bug.check])
        caught = status == _FAILED
        outcomes.append(
            {
                "name": bug.name,
                "promise": bug.promise,
                "check": bug.check,
                "caught": caught,
                "status": status,
                "seconds": round(time.monotonic() - begun, 1),
            }
        )
        print(f"{'caught' if caught else 'MISSED'}  {bug.promise:4}{bug.name}", flush=True)  # noqa: T201
        if not caught:
            print(said, flush=True)  # noqa: T201
    num_caught = sum(outcome["caught"] for outcome in outcomes)
    print(f"caught {num_caught} of {len(outcomes)}")  # noqa: T201
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        outcomes = _with_earlier(options.output, outcomes)
        options.output.write_text(json.dumps({"bugs": outcomes}, indent=1) + "\n")
    return 0 if num_caught == len(outcomes) else 1


def _with_earlier(path: Path, outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The outcomes, and those of other bugs in the file, in the order of the table."""
    found = {outcome["name"]: outcome for outcome in outcomes}
    if path.exists():
        earlier = json.loads(path.read_text())["bugs"]
        found = {outcome["name"]: outcome for outcome in earlier} | found
    return [found[bug.name] for bug in BUGS if bug.name in found]


def _run(bug: Planted | None, checks: Sequence[str]) -> tuple[int, str]:
    """Pytest's status for these checks against a copy of the package, and its last words."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        package = Path(folder) / "errata"
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
        if bug is not None:
            plant(bug, package)
        client = PACKAGE.parents[1] / "clients" / "python"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((folder, str(client), str(ROOT))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ROBUSTNESS_PACKAGE": str(package),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout", str(_SECONDS), *checks]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout[-_TAIL:]


if __name__ == "__main__":
    sys.exit(main())
