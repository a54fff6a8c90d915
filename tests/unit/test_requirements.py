"""The locked requirements fit the projects and the constraints; audits say what they know."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tools.audit import LOCKS, verdict
from tools.lock_requirements import requirements

ROOT = Path(__file__).parents[2]
DEVELOPMENT = ROOT / "requirements/dev.txt"
# Other systems' packages, and the build tool, whose version is in pyproject.toml.
_UNCONSTRAINED = {"appnope", "colorama", "httpx2-jsfetch", "setuptools"}


def _pins(path: Path) -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==([^\s;\\]+)", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[._]", "-", name.lower()): version for name, version in lines}


def test_development_installs_what_the_constraints_say() -> None:
    constraints, locked = _pins(ROOT / "constraints.txt"), _pins(DEVELOPMENT)
    assert locked.keys() - constraints.keys() == _UNCONSTRAINED
    differing = {n for n in locked.keys() & constraints.keys() if locked[n] != constraints[n]}
    assert not differing, "run `make lock`"
    (build,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert build == f"setuptools=={locked['setuptools']}"


def test_development_installs_all_that_the_projects_name() -> None:
    wanted = {
        re.split(r"[\[<>=; ]", name.lower())[0].replace("_", "-")
        for name in requirements(("dev", "docs", "s3", "tracing"))
    }
    assert len(wanted) > 60
    assert wanted - _pins(DEVELOPMENT).keys() == {"torch"}, "run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_its_hash(lock: str) -> None:
    text = (ROOT / lock).read_text("utf-8")
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert blocks
    assert all("--hash=sha256:" in block for block in blocks)


def test_all_locks_are_audited() -> None:
    found = {*ROOT.glob("requirements/*.txt"), *ROOT.glob("deploy/images/requirements*.txt")}
    assert {ROOT / lock for lock in LOCKS} == found


def test_make_installs_the_locked_requirements_and_nothing_else() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "setup", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    commands = done.stdout.replace("\\\n", " ").splitlines()
    installs = [command for command in commands if "pip install" in command]
    assert any("--require-hashes -r requirements/dev.txt" in command for command in installs)
    for command in installs:
        torch = re.search(r" torch==[\d.]+$", command)
        assert "--require-hashes" in command or "--no-build-isolation" in command or torch


def _report(**packages: object) -> str:
    return json.dumps({"dependencies": [{"name": n, **dict(p)} for n, p in packages.items()]})  # type: ignore[call-overload]


def test_an_audit_tells_flaws_from_what_it_could_not_look_up() -> None:
    fine = {"version": "1.0", "vulns": []}
    flawed = {"version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
    unknown = {"skip_reason": "not found"}
    assert verdict(_report(a=fine), "") == verdict(_report(b=fine), "")
    assert not verdict(_report(a=fine), "").is_vulnerable
    found = verdict(_report(a=fine, b=flawed, c=unknown), "")
    assert found.is_vulnerable
    assert "b 2.0: CVE-1, fixed in 2.1" in found.text
    assert "SKIPPED 1 of 3 packages: not found" in found.text
    assert verdict(_report(c=unknown), "").text == "SKIPPED 1 of 1 packages: not found"
    cut = verdict("", "Traceback\nConnectionError: no route")
    assert (cut.text, cut.is_vulnerable) == ("SKIPPED: ConnectionError: no route", False)
