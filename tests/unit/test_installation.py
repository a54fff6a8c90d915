"""What `make` installs: exact pins, and another build of torch if an index is given."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert all(re.fullmatch(r"[0-9][\w.]*", version) for version in pins.values())
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}


def test_all_that_is_asked_for_is_pinned() -> None:
    asked: set[str] = set()
    for path in (ROOT / "pyproject.toml", ROOT / "clients/python/pyproject.toml"):
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        asked |= set(project["dependencies"])
        asked |= {
            name for extra in project.get("optional-dependencies", {}).values() for name in extra
        }
        assert project["requires-python"] == ">=3.11"
    names = {re.sub(r"[-_.]+", "-", Requirement(line).name).lower() for line in asked}
    assert names - {"errata-client"} <= _pins().keys()


def _make(*variables: str) -> subprocess.CompletedProcess[str]:
    """Dry run of `make setup`, without the variables of a make that runs the tests."""
    command = ["make", "--dry-run", "--always-make", "setup", *variables]
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)


def _commands(*variables: str) -> str:
    done = _make(*variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_index_of_torch_builds_goes_first_and_is_its_own_installation() -> None:
    plain, cpu = _commands(), _commands("TORCH_INDEX_URL=https://host.test/whl/cpu")
    assert "--index-url" not in plain
    first, rest = cpu.split("torch==" + _pins()["torch"], 1)
    assert "--index-url https://host.test/whl/cpu" in first
    assert "-c constraints.txt" in rest
    assert "-c constraints.txt" in plain
    assert cpu.rstrip().splitlines()[-1] != plain.rstrip().splitlines()[-1]


def test_a_machine_without_a_supported_python_is_told() -> None:
    done = _make("PYTHON=")
    assert done.returncode != 0
    assert "no Python 3.11 to 3.14 on PATH" in done.stderr
