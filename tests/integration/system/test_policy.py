"""Preview and review on a whole system: proposed, previewed, approved, served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from errata import demo
from errata.demo import Corpus
from errata.launch.box import Box, free_addresses
from errata_client import Client, EditSpec, EditState, PermissionDeniedError, PreconditionError
from tests.command_line import run_here
from tests.waiting import PATIENCE


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, statistics_cache: Path) -> Iterator[Box]:
    """A system whose lane of facts requires approval; the default lane does not."""
    folder = tmp_path_factory.mktemp("policy")
    (folder / "statistics").symlink_to(statistics_cache)
    model = demo.lanes_path().parent / "recipe"
    lanes = folder / "lanes.toml"
    lanes.write_text(
        '[lanes.main]\nmethod = "adaple"\n\n[lanes.facts]\nmethod = "recipe"\n'
        f'model = "{model}"\nrequires_approval = true\n'
    )
    flags = {"data_dir": folder, **free_addresses()}
    flags["writer"] = {**flags["writer"], "lanes_file": lanes}
    flags["worker"] = {"num_replicas": 1}
    with Box(flags) as box:
        yield box


def test_an_edit_is_previewed_proposed_approved_and_served(
    box: Box, corpus: Corpus, tmp_path: Path
) -> None:
    edit, other = corpus.demo_edits()[:2]
    kept = tmp_path / "kept.txt"
    kept.write_text(f"{other.prompt}\n\n{edit.prompt}\n")
    said = run_here(["probes", "set", str(kept), "--target", box.target])
    assert said.returncode == 0, said.stderr
    assert "2 prompts" in said.stdout

    with Client(box.target, timeout=PATIENCE) as client:
        head = client.head().seq
        command = ["edit", edit.prompt, edit.target, "--lane", "lanes/facts", "--dry-run"]
        done = run_here([*command, "--json", "--target", box.target])
        assert done.returncode == 0, done.stderr
        preview = json.loads(done.stdout)
        assert client.head().seq == head, "nothing was appended"
        assert preview["answers"][0]["after"].strip().startswith(edit.target)
        assert not preview["answers"][0]["before"].strip().startswith(edit.target)
        assert [each["prompt"] for each in preview["set_changes"]] == [edit.prompt]
        assert preview["num_set_probes"] == 2

        spec = EditSpec(edit.prompt, edit.target, edit.subject)
        (proposed,) = client.submit_edits([spec], lane="lanes/facts", author="ann")
        (waited,) = client.wait_edits([proposed.name])
        assert waited.state is EditState.PROPOSED
        listed = run_here(["edits", "--state", "proposed", "--target", box.target])
        assert proposed.name in listed.stdout
        assert not client.generate(edit.prompt, max_tokens=4).text.strip().startswith(edit.target)
        (again,) = client.preview_waiting([proposed.name])
        assert [each.after for each in again.answers] == [
            each["after"] for each in preview["answers"]
        ]

        with pytest.raises(PermissionDeniedError, match="nobody approves his own edit"):
            client.approve([proposed.name], author="ann")
        approve = ["approve", proposed.name, "--comment", "checked", "--author", "eve"]
        done = run_here([*approve, "--target", box.target])
        assert done.returncode == 0, done.stderr
        (committed,) = client.wait_edits([proposed.name])
        assert committed.state is EditState.COMMITTED
        assert committed.review is not None
        assert (committed.review.reviewer, committed.review.comment) == ("eve", "checked")
        answer = client.generate(edit.prompt, max_tokens=4)
        assert answer.text.strip().startswith(edit.target)
        assert answer.provenance.edits == (proposed.name,)

        _withdraw_a_repetition(box, client, spec)
        kinds = [entry.kind for entry in client.entries()]
        assert kinds.count("edits_reviewed") == 2
        assert {"probes_set", "lane_policy_set"} <= set(kinds)


def _withdraw_a_repetition(box: Box, client: Client, spec: EditSpec) -> None:
    (second,) = client.submit_edits([spec], lane="lanes/facts", author="ann")
    assert [each.kind for each in second.conflicts] == ["repeats"]
    with httpx2.Client(base_url=box.http_url, timeout=PATIENCE) as http:
        body = {"names": [second.name], "author": "ann", "comment": "twice"}
        withdrawn = http.post("/v1/edits:withdraw", json=body)
        assert withdrawn.json()["edits"][0]["state"] == "STATE_WITHDRAWN"
        refused = http.post(
            "/v1/edits:review",
            json={"names": [second.name], "verdict": "VERDICT_APPROVE", "author": "eve"},
        )
        assert refused.status_code == 400
        assert "submit the correction again" in refused.json()["error"]["message"]
    with pytest.raises(PreconditionError, match="withdrawn by ann"):
        client.reject([second.name], comment="no", author="eve")


def test_rows_of_an_import_are_reported_as_proposed(
    box: Box, corpus: Corpus, tmp_path: Path
) -> None:
    edits = corpus.demo_edits()[4:6]
    rows = [{"prompt": e.prompt, "target": e.target, "subject": e.subject} for e in edits]
    file, report = tmp_path / "rows.jsonl", tmp_path / "report.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    command = ["import", str(file), "--report", str(report), "--lane", "lanes/facts"]
    done = run_here([*command, "--author", "importer", "--target", box.target])
    assert done.returncode == 0, done.stderr
    fates = [json.loads(line) for line in report.read_text().splitlines()]
    assert [fate["outcome"] for fate in fates] == ["proposed", "proposed"]
