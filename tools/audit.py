"""Looks for known vulnerabilities in all locked requirements: `make audit`.

    python tools/audit.py

It says SKIPPED, with the reason, for what could not be looked up, such as without a package index.
Returns 1 if a vulnerability is known.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCKS = (
    "deploy/images/requirements.txt",
    "deploy/images/requirements-cpu.txt",
    "deploy/images/requirements-cuda.txt",
    "requirements/dev.txt",
    "requirements/audit.txt",
)
_TIMEOUT_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known about one lock.

    Attributes:
        text: known vulnerabilities, and how many packages were looked up and were not.
        is_vulnerable: whether a vulnerability is known.
    """

    text: str
    is_vulnerable: bool


def audit(lock: Path) -> Verdict:
    """What is known about the packages of a lock."""
    command = [
        *(str(Path(sys.executable).with_name("pip-audit")), "--requirement", str(lock)),
        *("--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"),
        *("--timeout", str(_TIMEOUT_SECONDS)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return verdict(done.stdout, done.stderr)


def verdict(report: str, messages: str) -> Verdict:
    """Reads pip-audit's report.

    Args:
        report: its standard output, JSON if it came to its end.
        messages: its standard error.
    """
    try:
        packages: list[Mapping[str, Any]] = json.loads(report)["dependencies"]
    except ValueError:
        last = messages.strip().splitlines()[-1:] or ["pip-audit said nothing"]
        return Verdict(f"SKIPPED: {last[0]}", False)
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in "
        f"{', '.join(flaw['fix_versions']) or 'no version'}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    skipped = [package["skip_reason"] for package in packages if "skip_reason" in package]
    num_known = len(packages) - len(skipped)
    if skipped:
        found.append(f"SKIPPED {len(skipped)} of {len(packages)} packages: {skipped[0]}")
    if num_known:
        found.append(f"{num_known} packages were looked up")
    is_vulnerable = any(package.get("vulns") for package in packages)
    return Verdict("; ".join(found), is_vulnerable)


def main() -> int:
    """Audits every lock; returns 1 if a vulnerability is known."""
    verdicts = {lock: audit(ROOT / lock) for lock in LOCKS}
    for lock, found in verdicts.items():
        sys.stdout.write(f"{lock}: {found.text}\n")
    return int(any(found.is_vulnerable for found in verdicts.values()))


if __name__ == "__main__":
    raise SystemExit(main())
