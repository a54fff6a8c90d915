"""The commands and the program that the README prints, as printed, on a system of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from errata.launch.box import free_addresses
from tests.ports import address_variables
from tests.waiting import PATIENCE

README = Path(__file__).parents[3] / "README.md"
# They go on until Ctrl-C; what they print once they are of use.
_UNTIL_INTERRUPTED = {"errata up": "Errata is up", "errata status --watch": "worker-"}


def _block(language: str) -> list[str]:
    """The lines of the first block of a language in "Use it"."""
    section = README.read_text(encoding="utf-8").partition("\n## Use it\n")[2]
    found = re.search(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1].splitlines()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The user's, but on free ports: other systems may run here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ERRATA_")}
    addresses = address_variables(free_addresses())
    return {
        **kept,
        **addresses,
        "ERRATA_TARGET": addresses["ERRATA_GATEWAY__ADDRESS"],
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@contextmanager
def _running(command: str, environment: dict[str, str], until: str) -> Iterator[None]:
    """A command that goes on until Ctrl-C; inside it has printed what tells that it is of use."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    try:
        while until not in said:
            line = process.stdout.readline()
            assert line, f"{command} ended:\n{said}"
            said += line
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)  # whatever it goes on to print
    assert process.returncode in (0, 130)


def _run(command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_use_it_as_printed(environment: dict[str, str]) -> None:
    activate, first, *others = _block("")
    assert activate == ". .venv/bin/activate"
    assert first.startswith("errata up ")
    with _running("errata up", environment, _UNTIL_INTERRUPTED["errata up"]):
        for line in others:
            command, _, comment = line.partition("#")
            command = command.strip()
            if command in _UNTIL_INTERRUPTED:
                with _running(command, environment, _UNTIL_INTERRUPTED[command]):
                    continue
            said = _run(command, environment)
            if "→" in comment:
                assert comment.partition("→")[2].strip() in said, f"{line}\n{said}"
        program = _run(f"python - <<'END'\n{os.linesep.join(_block('python'))}\nEND", environment)
    assert "is served by every replica from seq" in program
    assert "Lyon" in program
