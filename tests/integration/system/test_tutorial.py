"""The tutorial, run as it is printed, on a system of its own."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.integration.system.fences import Fence, fences
from tests.integration.system.printed import matches
from tests.integration.system.test_readme import environment as environment  # a fixture
from tests.waiting import PATIENCE

TUTORIAL = Path(__file__).parents[3] / "docs/tutorial.md"
# `make setup` made the environment that the tests run in.
_INSTALLED = "make setup\n. .venv/bin/activate\n"


@dataclass(frozen=True)
class Step:
    """A command, and what is printed as its output."""

    command: str
    output: str


def _steps(fence: Fence) -> Iterator[Step]:
    for part in re.split(r"^\$ ", fence.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield Step(command, output)


def _run(step: Step, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-c", step.command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{step.command}\n{done.stdout}{done.stderr}"
    assert matches(step.output, done.stdout), f"$ {step.command}\n{done.stdout}"


def test_the_tutorial_as_printed(environment: dict[str, str], tmp_path: Path) -> None:
    environment = {**environment, "COLUMNS": "200"}  # a line of an answer stays a line
    install, start, *others = fences(TUTORIAL)
    assert install.text == _INSTALLED
    (up,) = _steps(start)
    assert up.command == "errata up"
    process = subprocess.Popen(
        ["bash", "-c", f"exec {up.command}"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said, num_commands = "", 0
    try:
        while not matches(up.output, said):
            line = process.stdout.readline()
            assert line, f"{up.command} ended:\n{said}"
            said += line
        for fence in others:
            if fence.language == "python":
                (tmp_path / fence.title).write_text(fence.text, encoding="utf-8")
            for step in _steps(fence):
                _run(step, tmp_path, environment)
                num_commands += 1
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert num_commands == TUTORIAL.read_text("utf-8").count("\n$ ") - 1, "all but `errata up`"
