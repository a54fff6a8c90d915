"""Processes that cannot start: each ends with its reason and what to change."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from errata.launch.box import free_addresses
from errata.launch.processes import Process
from errata.platform.addresses import free_port
from tests.command_line import run_here
from tests.ports import address_variables
from tests.waiting import PATIENCE


def _fails(arguments: list[str], environment: dict[str, str]) -> str:
    """What a process of its own says."""
    done = subprocess.run(
        [sys.executable, "-m", "errata.cli", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return _told(done.returncode, done.stderr)


def _fails_here(arguments: list[str], environment: dict[str, str]) -> str:
    done = run_here(arguments, environment)
    return _told(done.returncode, done.stderr)


def _told(code: int, stderr: str) -> str:
    assert code == 1, stderr
    assert "Traceback" not in stderr
    return " ".join(stderr.split())


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "ERRATA_DATA_DIR": str(tmp_path),
        "ERRATA_LOG__WITNESS_PATH": str(tmp_path / "witness"),
        "ERRATA_LOG__REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        **address_variables(free_addresses()),
    }


def test_a_redis_that_is_down_at_start(environment: dict[str, str]) -> None:
    said = _fails(["serve", "log"], environment)
    assert "STARTUP_FAILED" in said
    assert environment["ERRATA_LOG__REDIS_URL"].rpartition(":")[2][:4] in said


@pytest.mark.parametrize(
    ("path", "reason", "told"),
    [
        ("{tmp}/nowhere", "MODEL_NOT_FOUND", "is not a folder"),
        ("{tmp}/empty", "MODEL_NOT_FOUND", "no config.json"),
        ("{tmp}/bert", "MODEL_UNSUPPORTED", "complete causal LM checkpoint"),
    ],
)
def test_a_model_that_cannot_be_edited(
    tmp_path: Path, environment: dict[str, str], path: str, reason: str, told: str
) -> None:
    (tmp_path / "empty").mkdir()
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    text = tmp_path / "text"
    text.write_text("a paragraph\n")
    model = path.format(tmp=tmp_path)
    extra = {"ERRATA_MODEL__PATH": model, "ERRATA_WRITER__STATISTICS_TEXT": str(text)}
    said = _fails_here(["serve", "writer"], {**environment, **extra})
    assert reason in said
    assert told in said
    assert "ERRATA_MODEL__PATH" in said


def test_another_model_than_the_demos_needs_a_text(environment: dict[str, str]) -> None:
    said = _fails_here(["serve", "writer"], {**environment, "ERRATA_MODEL__PATH": "/some/model"})
    assert "ERRATA_WRITER__STATISTICS_TEXT" in said


def test_up_names_a_port_in_use(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = _fails(["up", "--address", address], environment)
    assert address in said
    assert "another address" in said


def test_an_unknown_service_and_an_unknown_setting(environment: dict[str, str]) -> None:
    assert "choose log, writer, retrieval, catalog, workers, gateway" in _fails_here(
        ["serve", "oracle"], environment
    )
    bad = {**environment, "ERRATA_WRITER__ADRESS": "x"}
    assert "writer.adress" in _fails_here(["serve", "writer"], bad)
    assert "does not exist" in _fails(["--config", "/none.toml", "config"], environment)


def test_a_replica_that_waits_for_the_log_can_be_watched_and_ended(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    extra = {"ERRATA_RETRIEVAL__METRICS_ADDRESS": metrics}
    command = [sys.executable, "-m", "errata.cli", "serve", "retrieval"]
    process = Process.start("retrieval", command, {**environment, **extra}, tmp_path / "log")
    try:
        process.wait_until(lambda: "metrics" in process.tail(), PATIENCE)
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=PATIENCE) as page:
            text = page.read().decode()
        process.popen.terminate()
        assert process.popen.wait(PATIENCE) == 0
    finally:
        process.stop(10)
    assert 'errata_applied_seq{role="retrieval"} 0.0' in text
    assert "errata_replica_healthy{" not in text, "it is neither healthy nor unhealthy yet"


def test_a_writer_that_waits_for_the_log_ends_when_it_is_told(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "errata.cli", "serve", "writer"]
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        extra = {"ERRATA_LOG__ADDRESS": address}
        process = Process.start("writer", command, {**environment, **extra}, tmp_path / "log")
        try:
            mute.settimeout(PATIENCE)
            with mute.accept()[0]:  # it knocks
                process.popen.terminate()
                assert process.popen.wait(PATIENCE) == 0
        finally:
            process.stop(10)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ERRATA_RETRIEVAL__DEVICE", "gpu", "retrieval.device (ERRATA_RETRIEVAL__DEVICE): device"),
    ],
)
def test_a_retrieval_service_says_at_once_what_it_cannot_use(
    environment: dict[str, str], name: str, value: str, told: str
) -> None:
    assert told in _fails_here(["serve", "retrieval"], {**environment, name: value})


def test_nobody_answers(environment: dict[str, str]) -> None:
    said = _fails_here(["status", "--target", "127.0.0.1:1", "--timeout", "15"], environment)
    assert "error" in said
