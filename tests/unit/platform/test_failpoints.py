"""Failpoints do nothing unless they are switched on, and then what they were told."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from errata.errors import LogUnavailableError, StartupError
from errata.platform.failpoints import POINTS, configure_failpoints, failpoint, failpoint_async
from errata.platform.settings import load_settings

SERVICES = Path(__file__).parents[3] / "services" / "errata"
POINT = "artifacts.before_write"


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    configure_failpoints("")


def _strikes(times: int) -> list[int]:
    """At which of so many passes the point raises."""
    found = []
    for number in range(1, times + 1):
        try:
            failpoint(POINT)
        except OSError:
            found.append(number)
    return found


def test_each_point_is_declared_once_and_placed_once() -> None:
    placed: Counter[str] = Counter()
    for path in SERVICES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in ("failpoint", "failpoint_async"):
                    (name,) = node.args
                    assert isinstance(name, ast.Constant)
                    placed[str(name.value)] += 1
    assert placed == Counter(dict.fromkeys(POINTS, 1))
    assert len(POINTS) >= 30


async def test_all_are_off_by_default() -> None:
    for name in POINTS:
        failpoint(name)
        await failpoint_async(name)


def test_it_strikes_each_pass_one_pass_or_a_share_of_them() -> None:
    configure_failpoints(f"{POINT}=error")
    assert _strikes(3) == [1, 2, 3]
    configure_failpoints(f"{POINT}=error@2")
    assert _strikes(5) == [2]
    configure_failpoints(f"{POINT}=error%0.5#7")
    some = _strikes(40)
    assert 0 < len(some) < 40
    configure_failpoints(f"{POINT}=error%0.5#7")
    assert _strikes(40) == some, "the seed repeats the draw"
    configure_failpoints("")
    assert _strikes(5) == []


async def test_each_act() -> None:
    configure_failpoints(f"log.read.page=error, {POINT}=delay:0.05")
    with pytest.raises(LogUnavailableError, match=r"log\.read\.page"):
        await failpoint_async("log.read.page")
    before = time.monotonic()
    failpoint(POINT)
    await failpoint_async(POINT)
    assert time.monotonic() - before >= 0.1
    code = f"from errata.platform.failpoints import *; configure_failpoints('{POINT}=kill@2')\n"
    code += f"failpoint('{POINT}'); print('once', flush=True); failpoint('{POINT}'); print('twice')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (-signal.SIGKILL, "once")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("log.append.typo=kill", "there is no failpoint 'log.append.typo'"),
        (f"{POINT}=explode", "is no rule"),
        (f"{POINT}=kill@0", "is no rule"),
        (f"{POINT}=delay", "is no rule"),
        ("replica.before_apply=error", "cannot meet an error"),
    ],
)
def test_what_it_does_not_know_is_refused_and_switches_nothing(text: str, told: str) -> None:
    configure_failpoints(f"{POINT}=error")
    with pytest.raises(StartupError, match=told):
        configure_failpoints(text)
    assert _strikes(1) == [1]


def test_a_service_reads_them_from_its_settings(tmp_path: Path) -> None:
    assert load_settings({}).failpoints == ""
    environment = {"ERRATA_FAILPOINTS": "no.such=kill", "ERRATA_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "errata.cli", "serve", "log"]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ERRATA_FAILPOINTS" in done.stderr
