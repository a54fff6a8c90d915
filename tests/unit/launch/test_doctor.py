"""`errata doctor` reports what would keep Errata from starting, and the remedy."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from errata import demo
from errata.catalog.webhooks.targets import new_secret
from errata.launch.certs import make_ca
from errata.launch.doctor import diagnose
from errata.launch.findings import Finding
from errata.launch.processes import Process
from errata.launch.redis import redis_executable
from errata.platform.addresses import free_port
from errata.platform.metrics import metrics_endpoint
from errata.platform.security.active import Security, active, configure_security
from errata.platform.settings import load_settings
from errata.replica.base_model import load_base_model


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


def test_each_problem_has_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


def test_ignored_fields_of_a_generation_config_are_reported_before_and_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo.model_path(), folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "repetition_penalty": 1.3}))
    monkeypatch.setenv("ERRATA_MODEL__PATH", str(folder))
    monkeypatch.setenv("ERRATA_WRITER__STATISTICS_TEXT", str(path))
    finding = _found()["generation config"]
    assert finding.grade == "warn"
    assert "repetition_penalty=1.3" in finding.found
    with capture_logs() as logs:
        load_base_model(load_settings())
    (warned,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warned["fields"]["repetition_penalty"] == 1.3
    monkeypatch.delenv("ERRATA_MODEL__PATH")
    assert "generation config" not in _found()


def test_the_file_of_webhooks_is_read_before_the_catalog_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "webhooks" not in _found()
    file = tmp_path / "webhooks.toml"
    monkeypatch.setenv("ERRATA_CATALOG__WEBHOOKS_FILE", str(file))
    file.write_text('[[target]]\nname = "chat"\nurl = "https://x.example"\nsecret_file = "s"\n')
    finding = _found()["webhooks"]
    assert finding.grade == "fail"
    assert str(tmp_path / "s") in finding.found
    assert "docs/events.md" in finding.remedy
    (tmp_path / "s").write_text(new_secret()[0])
    finding = _found()["webhooks"]
    assert finding.grade == "ok", finding.found
    assert "chat" in finding.found


def test_unreadable_settings_are_the_only_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_WORKER__NUM_REPLICAS", "none")
    (finding,) = diagnose()
    assert (finding.grade, finding.name) == ("fail", "settings")
    assert "worker.num_replicas" in finding.found


def test_addresses_of_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_LOG__ADDRESS", "192.0.2.1:7711")  # kept for documentation: nobody
    monkeypatch.setenv("ERRATA_WRITER__ADDRESS", "writer.invalid:7712")
    monkeypatch.setenv("ERRATA_GATEWAY__RAY_ADDRESS", "ray.invalid:6380")
    monkeypatch.setenv("ERRATA_WORKER__RETRIEVAL_ADDRESS", "dns:///retrieval.invalid:7713")
    found = _found()
    assert found["log.address"].grade == "warn"
    assert "another machine" in found["log.address"].found
    for name in ("writer.address", "gateway.ray_address", "worker.retrieval_address"):
        assert found[name].grade == "fail", name
        assert "not known" in found[name].found
        assert name in found[name].remedy


def test_metrics_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_port()
    with (
        metrics_endpoint(f"127.0.0.1:{(ours := free_port())}"),
        socket.create_server(("127.0.0.1", 0)) as stranger,
    ):
        monkeypatch.setenv("ERRATA_LOG__METRICS_ADDRESS", f"127.0.0.1:{ours}")
        monkeypatch.setenv("ERRATA_WRITER__METRICS_ADDRESS", f"127.0.0.1:{free}")
        taken = f"127.0.0.1:{stranger.getsockname()[1]}"
        monkeypatch.setenv("ERRATA_GATEWAY__METRICS_ADDRESS", taken)
        found = _found()
    assert found["log.metrics_address"].grade == "ok"
    assert "are served" in found["log.metrics_address"].found
    assert found["writer.metrics_address"].found.endswith("is free")
    assert found["gateway.metrics_address"].grade == "fail"


def test_addresses_with_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ca, before = make_ca(tmp_path), active()
    for name, path in (("CA", ca.ca), ("CERT", ca.certificate("log")), ("KEY", ca.key("log"))):
        monkeypatch.setenv(f"ERRATA_SECURITY__TLS_{name}_FILE", str(path))
    configure_security(Security(load_settings(None).security))
    try:
        with metrics_endpoint(f"127.0.0.1:{(ours := free_port())}"):
            monkeypatch.setenv("ERRATA_LOG__METRICS_ADDRESS", f"127.0.0.1:{ours}")
            assert _found()["log.metrics_address"].grade == "ok"
    finally:
        configure_security(before)


def test_a_redis_that_would_lose_edits_is_refused_with_the_setting_to_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = free_port()
    command = [redis_executable(), "--port", str(port), "--dir", str(tmp_path)]
    process = Process.start("redis", command, {}, tmp_path / "redis.log")
    try:
        process.wait_until(lambda: "Ready to accept" in process.tail(), 20)
        monkeypatch.setenv("ERRATA_LOG__REDIS_URL", f"redis://127.0.0.1:{port}/0")
        found = _found()["Redis"]
    finally:
        process.stop(5)
    assert found.grade == "fail"
    assert found.remedy == "`appendonly yes` in its configuration"
