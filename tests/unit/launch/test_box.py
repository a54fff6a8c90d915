"""A box before it starts: if a check fails, nothing starts and every problem is reported."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from errata import demo
from errata.errors import StartupError
from errata.launch.box import Box, free_addresses
from errata.launch.doctor import diagnose
from errata.launch.lock import DataDirLock, held_by
from errata.launch.ports import moved_ports, with_flags
from errata.platform.addresses import free_port
from errata.platform.settings import load_settings
from tests.ports import address_variables


def _refused(folder: Path, flags: dict[str, object], redis_url: str | None = None) -> str:
    box = Box({"data_dir": folder / "data", **free_addresses(), **flags}, redis_url=redis_url)
    with pytest.raises(StartupError) as caught:
        box.start()
    assert not box.processes
    assert not (folder / "data").exists(), "nothing was begun"
    assert "nothing was started" in caught.value.message
    return caught.value.message


def test_every_problem_is_reported_before_anything_starts(tmp_path: Path) -> None:
    lanes = tmp_path / "lanes.toml"
    lanes.write_text('[lanes.main]\nmethod = "oracle"\n')
    said = _refused(
        tmp_path,
        {
            "model": {"path": str(tmp_path / "nope")},
            "writer": {"lanes_file": lanes, "address": f"127.0.0.1:{free_port()}"},
            "artifacts": {"url": "nowhere://x"},
        },
        redis_url=f"redis://127.0.0.1:{free_port()}/0",
    )
    for name in ("model: ", "writer.statistics_text: ", "lanes: ", "Redis: ", "artifacts.url: "):
        assert f"\n{name}" in said, name
    assert "nope is not a folder" in said
    assert "--text" in said
    assert "oracle" in said


def test_files_named_in_a_lanes_file_must_exist(tmp_path: Path) -> None:
    lanes = tmp_path / "lanes.toml"
    lanes.write_text(
        '[lanes.main]\nmethod = "recipe"\nmodel = "gone"\n'
        '[lanes.tuned]\nmethod = "elder"\nmodel = "gone"\nadapters = ["lost"]\n'
        '[lanes.tuned.config]\ninit = "adapters"\nnum_experts = 2\ntop_k = 1\n'
    )
    said = _refused(
        tmp_path, {"writer": {"lanes_file": lanes, "address": f"127.0.0.1:{free_port()}"}}
    )
    assert "lanes/main: no lane model or gate at" in said
    assert "lanes/tuned: no PEFT adapter at" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "is empty"), (b"\xff\xfe\x00bad", "not UTF-8")],
)
def test_an_unusable_text_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    text = tmp_path / "text"
    if content is not None:
        text.write_bytes(content)
    writer = {"statistics_text": text, "address": f"127.0.0.1:{free_port()}"}
    assert message in _refused(tmp_path, {"writer": writer})


@pytest.mark.parametrize("name", ["signing_key_file", "previous_signing_key_file"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "key.pem"
    writer = {name: path, "address": f"127.0.0.1:{free_port()}"}
    assert f"writer.{name}: the key file {path} cannot be read" in _refused(
        tmp_path, {"writer": writer}
    )
    path.write_text("no key")
    said = _refused(tmp_path, {"writer": writer, "worker": {"trusted_keys_file": path}})
    assert f"writer.{name}: {path} does not hold an unencrypted private Ed25519 key" in said
    assert "worker.trusted_keys_file: " in said
    assert "'no key' is neither a key id" in said


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    box = Box({"data_dir": tmp_path / "file" / "data", **free_addresses()})
    with pytest.raises(StartupError, match="Not a directory"):
        box.start()


def test_a_port_that_a_running_errata_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    names = ["errata.v1.InferenceService", "errata.v1.EditingService", "errata.v1.EditLogService"]
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
    taken = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        said = _refused(tmp_path, {"gateway": {"address": taken, "http_address": ""}})
        addresses = free_addresses()
        addresses["gateway"]["address"] = taken
        for name, address in address_variables(addresses).items():
            monkeypatch.setenv(name, address)
        monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path))
        found = {finding.name: finding for finding in diagnose()}
        monkeypatch.setenv("ERRATA_LOG__ADDRESS", taken)
        confused = {finding.name: finding for finding in diagnose()}
    finally:
        server.stop(0).wait()
    assert f"gateway.address: {taken} is taken by another Errata gateway service" in said
    assert "ERRATA_GATEWAY__ADDRESS" in said
    assert "`errata up --port " in said
    assert "--data-dir" in said
    assert found["gateway.address"].grade == "ok"
    assert "in use by an Errata gateway service, which is healthy" in found["gateway.address"].found
    assert "--port" in found["gateway.address"].remedy
    assert confused["log.address"].grade == "fail"
    assert "an Errata gateway service, not by a log service" in confused["log.address"].found


def test_metrics_ports_and_foreign_programs_are_checked_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = f"127.0.0.1:{stranger.getsockname()[1]}"
        worker = {"metrics_address": taken}
        said = _refused(tmp_path, {"worker": worker})
    assert f"worker.metrics_address: {taken} is taken by a program that is not Errata" in said
    said = _refused(tmp_path, {"gateway": {"address": "192.0.2.77:7700", "http_address": ""}})
    assert "is not an address of this machine" in said


def test_one_port_moves_the_whole_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_WORKER__RETRIEVAL_ADDRESS", "127.0.0.1:7713")
    monkeypatch.setenv("ERRATA_LOG__METRICS_ADDRESS", "127.0.0.1:9464")
    monkeypatch.setenv("ERRATA_WRITER__ADDRESS", "127.0.0.2:7999")
    before = load_settings()
    moved = load_settings(moved_ports(before, 7800))
    assert moved.gateway.address == "127.0.0.1:7800"
    assert moved.gateway.http_address == "127.0.0.1:7801"
    assert moved.log.address == "127.0.0.1:7811"
    assert moved.writer.address == "127.0.0.2:8099", "what a setting says moves from there"
    assert moved.retrieval.address == moved.worker.retrieval_address == "127.0.0.1:7813"
    assert moved.log.metrics_address == "127.0.0.1:9564"
    assert moved.gateway.metrics_address == ""
    with pytest.raises(StartupError, match="ports are 1 to 65535"):
        moved_ports(before, 65_530)


def test_one_data_dir_for_one_box(tmp_path: Path) -> None:
    assert held_by(tmp_path) == ""
    lock = DataDirLock(tmp_path, "the Errata at 127.0.0.1:7700 (process 1)")
    assert held_by(tmp_path).startswith(f"{tmp_path} is in use by the Errata at 127.0.0.1:7700")
    with pytest.raises(StartupError, match="--data-dir"):
        DataDirLock(tmp_path, "another")
    box = Box({"data_dir": tmp_path, **free_addresses()})
    with pytest.raises(StartupError, match="in use by the Errata at 127"):
        box.start()
    assert not (tmp_path / "redis").exists()
    # A box that was killed leaves children that still write there.
    child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno])
    lock.release()
    try:
        assert f"its processes here: {child.pid}" in held_by(tmp_path)
    finally:
        child.kill()
        child.wait()
    assert held_by(tmp_path) == ""
    DataDirLock(tmp_path, "the next").release()


def test_a_users_model_is_checked_without_its_weights(tmp_path: Path) -> None:
    model, text = tmp_path / "model", tmp_path / "text"
    model.mkdir()
    text.write_text("a paragraph\n")
    for file in demo.model_path().iterdir():
        if file.suffix != ".safetensors":
            (model / file.name).write_bytes(file.read_bytes())
    flags = with_flags(
        {"data_dir": tmp_path, "model": {"path": str(model)}, "writer": {"statistics_text": text}},
        free_addresses(),
    )
    grades = {finding.name: finding.grade for finding in diagnose(flags)}
    assert grades["model"] == grades["writer.statistics_text"] == "ok"
    (model / "tokenizer.json").unlink()
    grades = {finding.name: finding.grade for finding in diagnose(flags)}
    assert grades["model"] == "fail"


def test_checks_that_need_no_torch_import_none() -> None:
    code = "import sys, errata.launch.box, errata.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
