"""`errata doctor` says what would keep Errata from starting, and what to do."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from errata.launch.box import free_port
from errata.launch.doctor import diagnose
from errata.launch.findings import Finding


@pytest.fixture(autouse=True)
def _free_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path))
    for name in ("LOG", "WRITER", "RETRIEVAL", "GATEWAY"):
        monkeypatch.setenv(f"ERRATA_{name}__ADDRESS", f"127.0.0.1:{free_port()}")


def _found() -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose()}


def test_a_machine_that_is_ready() -> None:
    found = _found()
    assert {finding.grade for finding in found.values()} <= {"ok", "warn"}
    assert {"versions", "Redis", "data_dir", "model", "lanes", "log.address"} <= found.keys()
    assert "torch" in found["versions"].found
    assert "lanes/facts (recipe)" in found["lanes"].found


def test_what_is_wrong_is_named_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "lanes.toml").write_text('[lanes.main]\nmethod = "oracle"\n')
    monkeypatch.setenv("ERRATA_LOG__REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("ERRATA_MODEL__PATH", str(tmp_path / "no-model"))
    monkeypatch.setenv("ERRATA_WRITER__LANES_FILE", str(tmp_path / "lanes.toml"))
    monkeypatch.setenv("ERRATA_ARTIFACTS__URL", "nowhere://x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("ERRATA_GATEWAY__ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        found = _found()
    for name in ("Redis", "model", "lanes", "artifacts.url", "gateway.address"):
        assert found[name].grade == "fail", name
        assert found[name].remedy, name
    assert "no-model" in found["model"].found
    assert "oracle" in found["lanes"].found


def test_settings_that_cannot_be_read_come_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_WORKER__NUM_REPLICAS", "none")
    (finding,) = diagnose()
    assert (finding.grade, finding.name) == ("fail", "settings")
    assert "worker.num_replicas" in finding.found
