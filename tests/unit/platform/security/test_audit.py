"""The audit log: chained, rotated, and without it nothing changes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from errata.cli import app
from errata.errors import DataLossError, NotFoundError, PermissionDeniedError, UnavailableError
from errata.platform.security.audit import AuditLog, verify


def _log(path: Path, *, max_bytes: int = 1_000_000, reads: bool = False) -> AuditLog:
    return AuditLog(path, service="writer", max_bytes=max_bytes, reads=reads)


def _fill(path: Path, count: int, *, max_bytes: int = 1_000_000) -> None:
    log = _log(path, max_bytes=max_bytes)
    for number in range(count):
        log.end("alice", "ipv4:127.0.0.1:1", "/errata.v1.EditingService/X", "ok", seq=number)
    log.close()


def test_lines_say_who_what_and_what_came_of_it(tmp_path: Path) -> None:
    path = tmp_path / "writer.jsonl"
    _fill(path, 2)
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["who"], first["what"], first["outcome"], first["seq"]) == (
        "alice",
        "errata.v1.EditingService/X",
        "ok",
        0,
    )
    assert second["before"] != first["before"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_chain_goes_on_after_a_restart_and_over_files(tmp_path: Path) -> None:
    path = tmp_path / "writer.jsonl"
    for _ in range(3):
        _fill(path, 20, max_bytes=4_096)
    assert len(list(tmp_path.iterdir())) > 2
    assert verify(path) == (60, None)
    done = CliRunner().invoke(app, ["audit", "verify", str(path)])
    assert done.exit_code == 0
    assert "60 lines, all sound" in done.output


@pytest.mark.parametrize("change", ["altered", "removed", "exchanged", "cut", "added"])
def test_whatever_is_done_to_a_line_shows(tmp_path: Path, change: str) -> None:
    path = tmp_path / "writer.jsonl"
    _fill(path, 10)
    held = path.read_bytes().splitlines(keepends=True)
    match change:
        case "altered":
            held[3] = held[3].replace(b"alice", b"mallory")
        case "removed":
            del held[4]
        case "exchanged":
            held[3], held[4] = held[4], held[3]
        case "cut":
            held[9] = held[9][:20]
        case "added":
            held.insert(5, held[5].replace(b"alice", b"bob"))
    path.write_bytes(b"".join(held))
    sound, problem = verify(path)
    assert problem is not None
    assert sound < 10
    done = CliRunner().invoke(app, ["audit", "verify", str(path)])
    assert isinstance(done.exception, DataLossError)


def test_a_file_of_lines_that_is_missing_shows(tmp_path: Path) -> None:
    path = tmp_path / "writer.jsonl"
    _fill(path, 60, max_bytes=4_096)
    (tmp_path / "writer.jsonl.1").unlink()
    assert verify(path)[1] is not None
    with pytest.raises(NotFoundError, match="no audit log"):
        CliRunner().invoke(app, ["audit", "verify", str(tmp_path / "none")], catch_exceptions=False)


def test_a_half_line_of_a_crash_is_removed_and_told(tmp_path: Path) -> None:
    path = tmp_path / "writer.jsonl"
    _fill(path, 3)
    path.write_bytes(path.read_bytes() + b'{"time":')
    _log(path).close()
    assert verify(path) == (4, None)
    assert "8 bytes of an unfinished line" in path.read_text().splitlines()[-1]


def test_a_last_line_that_is_none_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "writer.jsonl"
    _fill(path, 3)
    path.write_bytes(path.read_bytes() + b"no JSON\n")
    with pytest.raises(UnavailableError, match="cannot be continued"):
        _log(path)


def test_the_line_before_a_change_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda file: synced.append(os.fstat(file).st_size))
    path = tmp_path / "writer.jsonl"
    log = _log(path)
    log.end("alice", "", "/m", "ok")
    assert not synced
    log.begin("alice", "", "/m")
    assert synced == [path.stat().st_size], "with the lines before it"
    log.close()


def test_a_line_that_cannot_be_written_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "writer.jsonl"
    _fill(path, 3)
    log = _log(path)
    os.close(log._file)
    log._file = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(UnavailableError, match="so nothing is changed"):
        log.end("alice", "", "/m", "ok")
    log.close()
    assert verify(path) == (3, None)


def test_which_calls_get_a_line(tmp_path: Path) -> None:
    log = _log(tmp_path / "a.jsonl")
    assert log.wants(True, None)
    assert log.wants(False, PermissionDeniedError("no"))
    assert not log.wants(False, None)
    assert not log.wants(False, NotFoundError("no"))
    log.close()
    everything = _log(tmp_path / "b.jsonl", reads=True)
    assert everything.wants(False, None)
    everything.close()
