"""Child processes: which log lines are shown, and what happens to a long log."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from errata.errors import StartupError
from errata.launch import processes
from errata.launch.processes import Process


def _failing(log_path: Path, said: str) -> StartupError:
    command = [sys.executable, "-c", f"import sys; sys.exit({said!r})" if said else "exit(3)"]
    process = Process.start("service", command, {}, log_path)
    try:
        with pytest.raises(StartupError) as caught:
            process.wait_until(lambda: False, 30)
    finally:
        process.stop(5)
    return caught.value


def test_a_failed_start_shows_its_own_lines_only(tmp_path: Path) -> None:
    log_path = tmp_path / "logs" / "service.log"
    assert "disk is full" in _failing(log_path, "disk is full").message
    second = _failing(log_path, "port is taken").message
    assert "port is taken" in second
    assert "disk is full" not in second
    silent = _failing(log_path, "").message
    assert "ended with status 3" in silent
    assert "no output" in silent
    assert str(log_path) in silent, "where the rest is to be found"
    kept = log_path.read_text()
    assert "disk is full" in kept
    assert "port is taken" in kept


def test_a_long_log_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_path = tmp_path / "service.log"
    log_path.write_text("old line\n" * 100)
    monkeypatch.setattr(processes, "_MAX_LOG_BYTES", 500)
    assert "old line" not in _failing(log_path, "new line").message
    assert "old line" not in log_path.read_text()
    assert "old line" in (tmp_path / "service.log.1").read_text()


def test_only_the_end_of_a_long_output_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_TAIL_BYTES", 200)
    said = "\n".join(f"line {n:04}" for n in range(1_000))
    message = _failing(tmp_path / "service.log", said).message
    assert "line 0999" in message
    assert "line 0900" not in message


def test_waiting_can_be_cancelled(tmp_path: Path) -> None:
    process = Process.start("service", ["sleep", "60"], {}, tmp_path / "service.log")
    try:
        with pytest.raises(KeyboardInterrupt):
            process.wait_until(lambda: False, 30, given_up=lambda: True)
        assert process.running
    finally:
        process.stop(5)
    assert not Path(f"/proc/{process.popen.pid}").exists() or os.name != "posix"
