"""Many edits at once, against a running system: import, export, diff."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from errata.demo import Corpus
from errata_client import Client, EditSpec
from tests.command_line import run_here
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE

# Lines of a lane whose fits take milliseconds; each test has prompts of its own.
LANE = "lanes/facts"


def _specs(corpus: Corpus, count: int) -> list[dict[str, str]]:
    """Corrections that no other test makes: their source tells them apart."""
    edits = corpus.demo_edits()[7:]  # others list edits of the ones before
    source = uuid.uuid4().hex
    return [
        {"prompt": edit.prompt, "target": edit.target, "subject": edit.subject, "source": source}
        for edit in edits[:count]
    ]


def _write(path: Path, records: list[dict[str, str]]) -> str:
    path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


def _import(system: System, *arguments: str, code: int = 0) -> str:
    command = ["import", *arguments, "--lane", LANE, "--target", system.target]
    done = run_here(command)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_rows_are_imported_once_reported_exported_and_compared(
    system: System,
    client: Client,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Waits that end before the edits do: the rows are followed further.
    monkeypatch.setattr("errata.bulk.importer._WAIT_SECONDS", 0.7)
    records = _specs(corpus, 3)
    before = client.head().seq
    file = _write(tmp_path / "edits.jsonl", [*records, records[0]])
    report = tmp_path / "report.jsonl"
    said = _import(system, file, "--report", str(report), "--author", "importer")
    assert "4 of 4 rows" in said
    fates = [json.loads(line) for line in report.read_text().splitlines()]
    assert {fate["row"]: fate["outcome"] for fate in fates} == {
        **dict.fromkeys((1, 2, 3), "committed"),
        4: "repeated",
    }
    after = client.head().seq
    _import(system, file, "--author", "importer")
    assert client.head().seq == after, "a second run sends what is known"

    named = {fate["edit"] for fate in fates if fate["edit"]}
    out = tmp_path / "all.csv"
    assert run_here(["export", str(out), "--target", system.target]).returncode == 0
    exported = out.read_text()
    assert all(name in exported for name in named)

    compare = ["diff", str(before), str(after), "--json", "--target", system.target]
    found = json.loads(run_here(compare).stdout)
    assert {each["edit"]["name"] for each in found if each["kind"] == "added"} >= named
    assert run_here(["diff", "7", system.target]).returncode == 1
    client.revert(sorted(named), comment="test")


def test_rows_that_the_service_refuses_are_told_and_the_others_go_on(
    system: System, client: Client, corpus: Corpus, tmp_path: Path
) -> None:
    (good,) = _specs(corpus, 1)
    long = {"prompt": good["prompt"] + " " + "x" * 200_000, "target": "y"}
    file = _write(tmp_path / "edits.jsonl", [long, good])
    report = tmp_path / "report.jsonl"
    said = _import(system, file, "--report", str(report), code=1)
    assert "row 1: refused" in said
    outcomes = {fate["row"]: fate for fate in map(json.loads, report.read_text().splitlines())}
    assert outcomes[1]["reason"]
    assert outcomes[2]["outcome"] == "committed"
    client.revert([outcomes[2]["edit"]], comment="test")


def test_nothing_is_sent_of_a_file_with_a_fault(
    system: System, client: Client, corpus: Corpus, tmp_path: Path
) -> None:
    (good,) = _specs(corpus, 1)
    before = client.head().seq
    for faulty, said in (
        ({**good, "target": ""}, "1 rows of"),
        ({**good, "target": "something else"}, "1 prompts are corrected to different targets"),
        ({**good, "colour": "red"}, "columns that are no field"),
    ):
        file = _write(tmp_path / "edits.jsonl", [good, faulty])
        assert said in _import(system, file, code=1)
    assert "2 rows can be sent" in _import(
        system, _write(tmp_path / "edits.jsonl", [good, good]), "--dry-run"
    )
    assert client.head().seq == before


@pytest.mark.promise("P3")
def test_an_import_that_is_killed_goes_on_without_loss_or_repeat(
    system: System, client: Client, corpus: Corpus, tmp_path: Path
) -> None:
    source = uuid.uuid4().hex
    prompt = corpus.demo_edits()[4].prompt
    records = [
        {"prompt": f"{prompt} {number} times", "target": "never", "source": source}
        for number in range(20)
    ]
    file = _write(tmp_path / "edits.jsonl", records)
    command = [sys.executable, "-m", "errata.cli", "import", file, "--lane", LANE]
    command += ["--no-wait", "--author", "importer", "--target", system.target]

    def sent() -> int:
        return sum(1 for _ in client.list_edits(contains=source))

    # For ten seconds: a machine that stalls may see late that five are sent.
    slow = [*command, "--rate", "2"]
    process = subprocess.Popen(slow, env=dict(os.environ), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while sent() < 5 and process.poll() is None:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 5 <= sent() < len(records), "it was killed in the middle"
    # Some edits are rejected by then, which the exit status tells.
    subprocess.run(command, check=False, timeout=PATIENCE, stdout=subprocess.DEVNULL)
    found = list(client.list_edits(contains=source))
    assert sorted(edit.spec.prompt for edit in found if isinstance(edit.spec.prompt, str)) == (
        sorted(record["prompt"] for record in records)
    )
    client.wait_edits([edit.name for edit in found])
    committed = [e.name for e in client.list_edits(contains=source) if e.commit_seq]
    if committed:
        client.revert(committed, comment="test")


def test_edits_of_two_systems_are_compared_by_content(
    client: Client, system: System, corpus: Corpus
) -> None:
    same = run_here(["diff", system.target, system.target])
    assert same.returncode == 0
    assert "no difference" in same.stdout
    (made,) = _specs(corpus, 1)
    spec = EditSpec(made["prompt"], made["target"], made["subject"], source=made["source"])
    (edit,) = client.submit_edits([spec], lane=LANE)
    (edit,) = client.wait_edits([edit.name])
    head = client.head().seq
    client.revert([edit.name], comment="test")
    gone = run_here(["diff", str(head), str(client.head().seq), "--target", system.target])
    assert edit.name in gone.stdout
