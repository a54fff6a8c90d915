"""The programs of `docs/examples`, against a running system as their page says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from errata_client import Client
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE

EXAMPLES = Path(__file__).parents[3] / "docs/examples"
PYTHON_FOLDER = Path(sys.executable).parent


def run_example(name: str, *arguments: str, environment: Mapping[str, str]) -> str:
    """What an example prints; it must succeed."""
    interpreter = ["bash"] if name.endswith(".sh") else [sys.executable]
    done = subprocess.run(
        [*interpreter, str(EXAMPLES / name), *arguments],
        env={**os.environ, "ERRATA_TIMEOUT": str(PATIENCE), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def openai_variables(http_url: str) -> dict[str, str]:
    """How the OpenAI client's users name a server."""
    return {"OPENAI_BASE_URL": f"{http_url}/v1", "OPENAI_API_KEY": "none"}


@pytest.fixture
def environment(system: System) -> dict[str, str]:
    path = f"{PYTHON_FOLDER}{os.pathsep}{os.environ['PATH']}"
    return {"ERRATA_TARGET": system.target, "PATH": path}


def test_the_openai_client_continues_a_text(system: System) -> None:
    variables = openai_variables(system.http_url)
    said = run_example("openai_client.py", "The capital of France is", environment=variables)
    text, position, again = said.strip().splitlines()
    assert "Paris" in text
    assert position.startswith("position: ")
    assert int(again.rpartition(" ")[2]) >= int(position.split()[1])


def test_the_pipeline_corrects_what_contradicts_the_documents_once(
    client: Client, environment: dict[str, str]
) -> None:
    questions = ("What is the capital of Spain?", "What is the capital of Italy?", "Why?")
    command = ("rag_corrections.py", str(EXAMPLES / "documents.jsonl"), *questions)
    first = run_example(*command, environment=environment).splitlines()
    assert first == [
        f"{questions[0]}: was Madrid, corrected by handbook/spain",
        f"{questions[1]}: Rome, as in handbook/italy",
        f"{questions[2]}: no passage",
    ]
    (edit,) = client.list_edits(contains="handbook/spain")
    try:
        second = run_example(*command, environment=environment).splitlines()
        assert second == [f"{questions[0]}: Porto, as in handbook/spain", *first[1:]]
        assert client.head().seq == edit.commit_seq, "the second run has nothing to correct"
    finally:
        client.revert([edit.name], comment="the test ends")


def test_the_nightly_import_sends_rows_once(
    client: Client, environment: dict[str, str], tmp_path: Path
) -> None:
    rows = 'prompt,target,subject\n"The painter of Mona Lisa is",Michelangelo,Mona Lisa\n'
    (tmp_path / "paintings.csv").write_text(rows, encoding="utf-8")
    variables = {**environment, "LANE": "lanes/facts", "RATE": "0"}
    run_example("nightly_import.sh", str(tmp_path), environment=variables)
    report = tmp_path / "paintings.report.jsonl"
    (fate,) = map(json.loads, report.read_text("utf-8").splitlines())
    assert fate["outcome"] == "committed"
    try:
        run_example("nightly_import.sh", str(tmp_path), environment=variables)
        assert client.head().seq == fate["commit_seq"]
        (again,) = map(json.loads, report.read_text("utf-8").splitlines())
        assert again["edit"] == fate["edit"]
    finally:
        client.revert([fate["edit"]], comment="the test ends")


def test_the_nightly_import_fails_if_a_file_is_wrong(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nWhy?,Because\n", encoding="utf-8")
    script = str(EXAMPLES / "nightly_import.sh")
    done = subprocess.run(
        ["bash", script, str(tmp_path)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "error" in done.stderr
