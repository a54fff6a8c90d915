"""Namespaces as users meet them: SDK, OpenAI clients, the command line, files and exports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import BadRequestError, OpenAI

from errata_client import Client, EditSpec, InvalidEditError, InvalidRequestError
from tests.command_line import run_here
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE

PROMPT = "The capital of Portugal is"
LANE = "lanes/facts"


@pytest.fixture(scope="module")
def edits(system: System) -> Iterator[dict[str, str]]:
    """One prompt with an answer in each of two namespaces, and none in the default one."""
    targets = {"spaces-a": "Rome", "spaces-b": "Paris"}
    with Client(system.target, timeout=PATIENCE) as client:
        made = {
            namespace: client.edit(PROMPT, target, namespace=namespace, lane=LANE).name
            for namespace, target in targets.items()
        }
        yield made
        client.revert(list(made.values()))


def _errata(system: System, *arguments: str) -> str:
    done = run_here([*arguments, "--target", system.target])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_answer_names_the_edit_of_the_namespace_that_was_read(
    client: Client, edits: dict[str, str]
) -> None:
    a, b = edits["spaces-a"], edits["spaces-b"]
    for namespaces, found in (
        ("spaces-a", (a,)),
        (["spaces-b", "default"], (b,)),
        (["spaces-a", "spaces-b"], (b,)),
        (["*"], (b,)),
        ((), ()),
        (["spaces-c"], ()),
    ):
        everywhere = client.generate_everywhere(PROMPT, namespaces=namespaces, max_tokens=4)
        told = [
            client.generate(PROMPT, namespaces=namespaces, max_tokens=4).provenance,
            client.score(PROMPT, "Rome", namespaces=namespaces).provenance,
            *(each.answer.provenance for each in everywhere if each.answer is not None),
            *(chunk.provenance for chunk in client.stream(PROMPT, namespaces=namespaces)),
        ]
        assert len(told) > 4
        for provenance in told:  # edits of other tests' AdaPLE lane may have shaped it, too
            assert tuple(name for name in provenance.edits if name in (a, b)) == found, namespaces
    assert client.generate(PROMPT, namespaces="spaces-a").text.strip().startswith("Rome")
    edit = client.get_edit(a)
    assert (edit.spec.namespace, edit.superseded_by) == ("spaces-a", "")
    listed = [found.name for found in client.list_edits(namespace="spaces-a")]
    assert listed == [a]
    assert a not in {found.name for found in client.list_edits(namespace="default")}
    assert {a, b} <= {found.name for found in client.list_edits(contains=PROMPT)}


def test_openai_clients_name_namespaces_in_a_header_or_the_body(
    system: System, edits: dict[str, str]
) -> None:
    with OpenAI(base_url=f"{system.http_url}/v1", api_key="none", timeout=PATIENCE) as openai:
        model = openai.models.list().data[0].id

        def asked(**more: object) -> list[str]:
            made = openai.completions.create(
                model=model,
                prompt=PROMPT,
                temperature=0,
                max_tokens=4,
                **more,  # type: ignore[call-overload]
            )
            return [n for n in made.model_dump()["errata"]["edits"] if n in edits.values()]

        a, b = edits["spaces-a"], edits["spaces-b"]
        assert asked() == []
        assert asked(extra_headers={"Errata-Namespace": "spaces-a"}) == [a]
        assert asked(extra_headers={"Errata-Namespace": "spaces-a, spaces-b"}) == [b]
        assert asked(extra_body={"namespaces": ["spaces-b"]}) == [b]
        assert asked(extra_body={"errata": {"namespaces": ["spaces-a"]}}) == [a]
        both = {"extra_headers": {"Errata-Namespace": "spaces-a"}}
        assert asked(**both, extra_body={"namespaces": ["spaces-b"]}) == [b], "the newest of both"
        with pytest.raises(BadRequestError, match="no name of a namespace"):
            asked(extra_headers={"Errata-Namespace": "Spaces"})
        with pytest.raises(BadRequestError, match="leave the other names out"):
            asked(extra_body={"namespaces": ["*", "spaces-a"]})


def test_bad_namespaces_are_refused(client: Client, edits: dict[str, str]) -> None:
    with pytest.raises(InvalidEditError, match="no name of a namespace"):
        client.submit_edits([EditSpec(PROMPT, "x", namespace="No")])
    with pytest.raises(InvalidRequestError, match="no name of a namespace"):
        client.generate(PROMPT, namespaces=["No"])
    with pytest.raises(InvalidRequestError, match="no name of a namespace"):
        list(client.list_edits(namespace="No"))
    with pytest.raises(InvalidEditError, match="lanes/facts"):
        client.edit(PROMPT, "Rome", namespace="spaces-a", lane="lanes/main")


def test_the_command_line_reads_and_writes_namespaces(
    system: System, edits: dict[str, str], tmp_path: Path
) -> None:
    said = json.loads(_errata(system, "ask", PROMPT, "--namespace", "spaces-a", "--json"))
    assert edits["spaces-a"] in said["provenance"]["edits"]
    assert edits["spaces-b"] not in said["provenance"]["edits"]
    assert edits["spaces-b"] in _errata(system, "edits", "--namespace", "spaces-b")
    out = tmp_path / "out.jsonl"
    _errata(system, "export", str(out), "--namespace", "spaces-a")
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert (row["namespace"], row["name"]) == ("spaces-a", edits["spaces-a"])
    imported = tmp_path / "in.jsonl"
    rows = [
        {"prompt": "The capital of Norway is", "target": "Rome", "namespace": "spaces-d"},
        {"prompt": "The capital of Norway is", "target": "Paris"},
    ]
    imported.write_text("\n".join(map(json.dumps, rows)))
    arguments = ("import", str(imported), "--namespace", "spaces-e", "--lane", LANE)
    _errata(system, *arguments, "--timeout", str(PATIENCE))
    with Client(system.target, timeout=PATIENCE) as client:
        found = {edit.spec.namespace: edit for edit in client.list_edits(contains="of Norway is")}
        assert found["spaces-d"].spec.target == "Rome"
        assert found["spaces-e"].spec.target == "Paris"
        client.revert([found["spaces-d"].name, found["spaces-e"].name])
