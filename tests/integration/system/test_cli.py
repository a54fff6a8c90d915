"""The command line against a running system, as a user types it."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from errata.demo import Corpus
from tests.command_line import run_here
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE


class Cli:
    """`errata …`, in this process or in one of its own."""

    def __init__(self, target: str, *, apart: bool = False) -> None:
        self._target, self._apart = target, apart

    def run(self, *arguments: str, code: int = 0) -> str:
        command = [*arguments, "--target", self._target]
        return _run_apart(command, code) if self._apart else _run_here(command, code)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))


def _run_apart(command: list[str], code: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "errata.cli", *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def _run_here(command: list[str], code: int) -> str:
    done = run_here(command)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    return said


@pytest.fixture
def cli(system: System) -> Cli:
    return Cli(system.target)


@pytest.fixture
def cli_apart(system: System) -> Cli:
    return Cli(system.target, apart=True)


def test_edit_ask_status_log_revert(cli_apart: Cli, corpus: Corpus) -> None:
    cli = cli_apart
    edit = corpus.demo_edits()[1]
    old = cli.json("ask", edit.prompt, "--stop", ".")["text"]
    done = cli.json("edit", edit.prompt, edit.target, "--subject", edit.subject, "--wait")
    assert done["state"] == "committed"
    seq = str(done["commit_seq"])
    answer = cli.json("ask", edit.prompt, "--min-seq", seq, "--stop", ".")
    assert answer["text"].strip() == edit.target
    assert done["name"] in answer["provenance"]["edits"]
    shown = cli.run("ask", edit.prompt, "--min-seq", seq, "--everywhere")
    assert shown.count("worker-") == 2
    status = cli.json("status")
    roles = sorted(replica["role"] for replica in status["replicas"])
    assert roles == ["catalog", "worker", "worker"]
    assert all(replica["agrees"] for replica in status["replicas"])
    assert status["head"]["seq"] >= done["commit_seq"]
    assert "edits: " in cli.run("status")
    assert cli.json("log", "--from-seq", seq)[0]["edits"] == [done["name"]]
    assert "committed" in cli.run("log", "--from-seq", seq)
    assert done["name"] in cli.run("edits")
    assert "adaple" in cli.run("lanes")
    assert "fusion" in cli.run("lanes", "lanes/main")
    assert "parameters" in cli.run("status"), "lanes say what they hold"
    assert "log p" in cli.run("score", edit.prompt, edit.target)
    assert "without effect from seq" in cli.run("revert", done["name"], "--comment", "test")
    assert cli.json("ask", edit.prompt, "--stop", ".", "--min-seq", seq)["text"] == old


def test_edits_are_listed_with_who_when_and_why_and_filtered(cli: Cli, corpus: Corpus) -> None:
    edit = next(e for e in corpus.demo_edits()[4:] if e.subject in e.prompt and e.subject.istitle())
    # It cannot pass: its probe is its own question. Nothing is told to do that was done.
    spec = ["edit", edit.prompt, edit.target, "--subject", edit.subject, "--probe", edit.prompt]
    begun = datetime.now().replace(microsecond=0).isoformat()
    refused = json.loads(cli.run(*spec, "--author", "ada", "--wait", "--json", code=1))
    assert refused["reason"] == "CHECK_FAILED"
    assert "locality is" in refused["error"]
    assert "use another lane (lanes/experts" in refused["error"]
    assert "name the subject" not in refused["error"]
    plain = cli.json("edit", edit.prompt, edit.target, "--source", "TICKET-7", "--wait")
    assert plain["author"] == getpass.getuser()
    assert plain["subject_found"]
    assert "found in the prompt" in cli.run("edit", edit.prompt, edit.target, "--wait")
    shown = cli.run("edits", "--state", "rejected", "--author", "ada")
    (line,) = [line for line in shown.splitlines() if refused["name"] in line]
    assert "rejected" in line
    assert "main" in line
    assert f"{datetime.now():%Y-}" in line
    assert "ada" in line
    assert "locality is" in line

    def listed(*options: str) -> list[str]:
        return [item["name"] for item in cli.json("edits", *options)]

    assert listed("--author", "ada") == [refused["name"]]
    assert listed("--contains", "ticket-7") == [plain["name"]]
    assert plain["name"] in listed("--state", "committed", "--since", begun)
    assert refused["name"] not in listed("--state", "committed", "--lane", "lanes/main")
    assert not listed("--until", "2020-01-01")
    assert not listed("--lane", "lanes/facts", "--contains", edit.prompt)
    names = [item["name"] for item in cli.json("edits", "--state", "committed")]
    cli.run("revert", *[name for name in listed("--since", begun) if name in names])


def test_a_second_system_is_told_of_the_first(system: System) -> None:
    environment = {
        **os.environ,
        "ERRATA_LOG__ADDRESS": system.log_address,
        "ERRATA_WRITER__ADDRESS": system.writer_address,
        "ERRATA_GATEWAY__ADDRESS": system.target,
        "ERRATA_DATA_DIR": str(system.data_dir),
    }

    def told(*arguments: str, code: int) -> tuple[str, str]:
        command = [sys.executable, "-m", "errata.cli", *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout, done.stderr

    _, said = told("up", code=1)
    assert f"{system.data_dir} is in use by the Errata at {system.target}" in said
    for name in ("gateway", "log", "writer"):
        assert f"another Errata {name} service" in said
    assert "`errata up --port " in said
    findings, _ = told("doctor", "--json", code=0)
    found = {item["name"]: item for item in json.loads(findings)}
    for name in ("gateway", "log", "writer"):
        assert f"in use by an Errata {name} service" in found[f"{name}.address"]["found"]
    assert "is in use by the Errata" in found["data_dir in use"]["found"]


def test_nothing_is_written_to_the_home_folder(cli: Cli, system: System) -> None:
    cli.run("ask", "The capital of France is")
    assert not list(system.home.rglob("*")), "everything is in data_dir"


def test_mistakes_are_told_in_words(cli: Cli) -> None:
    assert "there is no lane 'lanes/other'" in cli.run("lanes", "lanes/other", code=1)
    assert "does not occur" in cli.run("edit", "France is", "x", "--subject", "Spain", code=1)
    assert "SEQ_BEYOND_HEAD" in cli.run("ask", "a", "--min-seq", "1000000", code=1)
    assert "NOT_FOUND" in cli.run("revert", "edits/999-9", code=1)
    assert "nothing to compact" in cli.run("compact", "lanes/facts", code=1)
    assert "UNKNOWN_LANE" in cli.run("compact", "lanes/nowhere", code=1)
    assert "there is no lanes/nowhere" in cli.run("adapters", "lanes/nowhere", "out", code=1)
    assert "only ELDER lanes" in cli.run("adapters", "lanes/main", "out", code=1)
    assert "nothing to export" in cli.run("adapters", "lanes/mixture", "out", code=1)


def test_a_mixture_is_compacted_and_exported(cli: Cli, corpus: Corpus, tmp_path: Path) -> None:
    edits = corpus.demo_edits()[2:4]
    names = [
        cli.json(
            "edit", e.prompt, e.target, "--subject", e.subject, "--lane", "lanes/mixture", "--wait"
        )["name"]
        for e in edits
    ]

    def exported(name: str) -> dict[str, Tensor]:
        folder = tmp_path / name
        told = cli.run("adapters", "lanes/mixture", str(folder))
        assert "adapters of lanes/mixture" in told
        assert (folder / "expert-0" / "adapter_config.json").is_file()
        return load_file(folder / "expert-0" / "adapter_model.safetensors")

    fitted = exported("fitted")
    assert "reliability 1.000 → 1.000" in cli.run("compact", "lanes/mixture")
    answer = cli.json("ask", edits[0].prompt, "--stop", ".")
    assert (answer["text"].strip(), answer["provenance"]["edits"]) == (edits[0].target, names[:1])
    compacted = exported("compacted")
    assert not all(torch.equal(fitted[name], compacted[name]) for name in fitted)
    cli.run("revert", *names)
    reverted = exported("reverted")
    assert all(torch.equal(compacted[name], reverted[name]) for name in compacted)
