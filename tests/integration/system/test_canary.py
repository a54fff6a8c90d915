"""A canary as users meet it: command line, SDK, OpenAI clients, JSON, files and the console."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from openai import BadRequestError, OpenAI

from errata_client import CanaryState, Client, EditState, PreconditionError
from tests.command_line import run_here
from tests.integration.log.harness import eventually
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE

PROMPT = "The capital of Sweden is"
LANE = "lanes/facts"
NAME = "canaries/e2e-july"


@dataclass(frozen=True, slots=True)
class Trial:
    """An open canary with one edit, and a key of each arm."""

    edit: str
    inside: str
    outside: str


def _errata(system: System, *arguments: str) -> str:
    done = run_here([*arguments, "--target", system.target])
    assert done.returncode == 0, done.stderr
    return done.stdout


def _key(client: Client, *, inside: bool) -> str:
    for number in range(64):
        provenance = client.generate(PROMPT, max_tokens=1, canary_key=f"user {number}").provenance
        if (NAME in provenance.canaries) is inside:
            return f"user {number}"
    raise AssertionError("half of the keys should be in it")


@pytest.fixture(scope="module")
def trial(system: System) -> Iterator[Trial]:
    """Ends as it is after the tests; what is left of it is reverted."""
    _errata(system, "canary", "open", "e2e-july", "--share", "50%", "--lane", LANE)
    _errata(
        system, "edit", PROMPT, "Rome", "--lane", LANE, "--canary", "e2e-july", "--wait",
        "--timeout", str(PATIENCE),
    )  # fmt: skip
    with Client(system.target, timeout=PATIENCE) as client:
        canary = client.get_canary(NAME)
        seen = client.wait_edits(canary.edits)  # later answers include it
        assert [edit.state for edit in seen] == [EditState.COMMITTED]
        yield Trial(canary.edits[0], _key(client, inside=True), _key(client, inside=False))
        left = [name for name in canary.edits if not client.get_edit(name).revert_seq]
        if left:
            client.revert(left)


def test_only_the_canarys_requests_read_its_edit(client: Client, trial: Trial) -> None:
    client.wait_edits([trial.edit])
    for key, is_in in ((trial.inside, True), (trial.outside, False)):
        everywhere = client.generate_everywhere(PROMPT, max_tokens=4, canary_key=key)
        told = [
            client.generate(PROMPT, max_tokens=4, canary_key=key).provenance,
            client.score(PROMPT, "Rome", canary_key=key).provenance,
            *(each.answer.provenance for each in everywhere if each.answer is not None),
            *(chunk.provenance for chunk in client.stream(PROMPT, canary_key=key)),
        ]
        assert len(told) > 4
        for provenance in told:
            assert (trial.edit in provenance.edits) is is_in
            assert (NAME in provenance.canaries) is is_in
            assert provenance.canary_key == key
    answer = client.generate(PROMPT, max_tokens=4, canary_key=trial.inside)
    assert answer.text.strip().startswith("Rome")


def test_a_drawn_key_leads_to_the_same_arm_again(client: Client, trial: Trial) -> None:
    arms = set()
    for _ in range(20):
        drawn = client.generate(PROMPT, max_tokens=1).provenance
        assert drawn.canary_key
        again = client.generate(PROMPT, max_tokens=1, canary_key=drawn.canary_key).provenance
        assert again.canaries == drawn.canaries
        arms.add(drawn.canaries)
    assert len(arms) == 2, "some are in it, and some are not"


def test_openai_clients_bring_keys_in_a_header_the_body_or_the_person(
    system: System, trial: Trial
) -> None:
    with OpenAI(base_url=f"{system.http_url}/v1", api_key="none", timeout=PATIENCE) as openai:
        model = openai.models.list().data[0].id

        def asked(**more: object) -> bool:
            made = openai.completions.create(
                model=model,
                prompt=PROMPT,
                temperature=0,
                max_tokens=2,
                **more,  # type: ignore[call-overload]
            )
            found = made.model_dump()
            arms = {NAME in choice["errata"]["canaries"] for choice in found["choices"]}
            assert arms == {NAME in found["errata"]["canaries"]}, "choices are of one arm"
            assert found["errata"]["canary_key"]
            return arms == {True}

        for key, is_in in ((trial.inside, True), (trial.outside, False)):
            assert asked(extra_headers={"Errata-Canary-Key": key}) is is_in
            assert asked(extra_body={"canary_key": key}) is is_in
            assert asked(extra_body={"errata": {"canary_key": key}}) is is_in
            assert asked(user=key) is is_in
        both = {"extra_headers": {"Errata-Canary-Key": trial.inside}}
        assert asked(**both, user=trial.outside), "the header comes first"
        for _ in range(4):
            asked(n=4)
        with pytest.raises(BadRequestError, match="canary_key has 257 characters"):
            asked(extra_body={"canary_key": "k" * 257})


async def test_both_arms_are_counted_and_shown(
    system: System, client: Client, trial: Trial
) -> None:
    for key in (trial.inside, trial.outside):
        client.generate(PROMPT, max_tokens=4, canary_key=key)

    def counted() -> bool:
        comparison = client.get_canary(NAME).comparison
        return (
            comparison is not None and comparison.canary.claims > 0 and comparison.rest.requests > 0
        )

    await eventually(counted)
    comparison = client.get_canary(NAME).comparison
    assert comparison is not None
    assert comparison.rest.claims == 0
    assert comparison.canary.tokens > 0
    shown = _errata(system, "canary", "show", "e2e-july")
    assert trial.edit in shown
    assert "claimed by its edits" in shown
    listed = httpx2.get(f"{system.http_url}/v1/canaries", params={"name": NAME}, timeout=PATIENCE)
    (canary,) = listed.json()["canaries"]
    assert int(canary["comparison"]["canary"]["claims"]) > 0


def test_the_console_shows_the_canary_and_asks_as_its_readers_do(
    system: System, trial: Trial
) -> None:
    with httpx2.Client(base_url=f"{system.http_url}/console", timeout=PATIENCE) as http:
        assert "e2e-july" in http.get("/canaries").text
        page = http.get("/canaries/e2e-july").text
        assert f'href="/console/{trial.edit}"' in page
        edit = http.get(f"/{trial.edit}?ask=now").text
        assert '<a href="/console/canaries/e2e-july">' in edit
        assert '<span class="badge committed">yes</span>' in edit
        code = re.search('name="form_code" value="([0-9a-f]+)"', http.get("/ask").text)
        assert code is not None
        form = {"form_code": code[1], "kind": "text", "prompt": PROMPT}
        asked = http.post("/ask", data={**form, "canary_key": trial.inside}).text
        assert f"by the key {trial.inside}" in asked
        assert '<dt>Canaries</dt><dd><a href="/console/canaries/e2e-july">' in asked


def test_edits_log_and_export_name_the_canary(system: System, trial: Trial, tmp_path: Path) -> None:
    listed = json.loads(_errata(system, "edits", "--contains", PROMPT, "--json"))
    assert [each["spec"]["canary"] for each in listed if each["name"] == trial.edit] == [NAME]
    log = _errata(system, "log", "--json")
    said = [(entry["kind"], entry["detail"]) for entry in json.loads(log)]
    assert ("edits_canaried", f"{LANE}, {NAME}") in said
    opened = [detail for kind, detail in said if kind == "canary_set" and NAME in detail]
    assert f"{NAME} of {LANE}: share 50%" in opened[0]
    out = tmp_path / "out.jsonl"
    _errata(system, "export", str(out), "--lane", LANE)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["canary"] for row in rows if row["name"] == trial.edit] == [NAME]


def test_rows_of_another_canary_are_reverted_with_it(
    system: System, client: Client, tmp_path: Path
) -> None:
    _errata(
        system,
        *("canary", "open", "e2e-may", "--share", "0", "--reader", "e2e-beta", "--lane", LANE),
    )
    file = tmp_path / "in.csv"
    file.write_text("prompt,target,canary\nThe capital of Finland is,Rome,e2e-may\n")
    _errata(system, "import", str(file), "--lane", LANE, "--timeout", str(PATIENCE))
    (name,) = client.get_canary("canaries/e2e-may").edits
    (edit,) = client.wait_edits([name])

    def shaped(*namespaces: str) -> bool:
        answer = client.generate(str(edit.spec.prompt), max_tokens=4, namespaces=namespaces)
        return name in answer.provenance.edits

    assert not shaped()
    assert shaped("default", "e2e-beta")
    assert not shaped("e2e-beta"), "it does not read the canary's namespace"
    shown = _errata(system, "canary", "rollback", "e2e-may", "--comment", "not what we meant")
    assert "canaries/e2e-may rolled back" in shown
    ended = client.get_canary("canaries/e2e-may")
    assert (ended.state, ended.comment) == (CanaryState.ROLLED_BACK, "not what we meant")
    assert client.get_edit(name).state is EditState.REVERTED
    client.session.last_seq = ended.ended_seq
    assert not shaped("default", "e2e-beta")
    with pytest.raises(PreconditionError, match="rolled back"):
        client.promote_canary("canaries/e2e-may")
    with pytest.raises(PreconditionError, match="ended"):
        client.set_canary("canaries/e2e-may", 1.0, lane=LANE)


def test_a_promotion_is_for_all(
    system: System, client: Client, trial: Trial, tmp_path: Path
) -> None:
    before = client.head().seq
    ended = client.promote_canary(NAME, comment="as measured")
    assert (ended.state, ended.comment) == (CanaryState.PROMOTED, "as measured")
    for key in (trial.inside, trial.outside, ""):
        answer = client.generate(PROMPT, max_tokens=4, canary_key=key)
        assert trial.edit in answer.provenance.edits
        assert NAME not in answer.provenance.canaries
    assert client.get_edit(trial.edit).spec.canary == NAME, "where it came from"
    assert ended.comparison is not None
    differences = json.loads(_errata(system, "diff", str(before), str(ended.ended_seq), "--json"))
    own = [each for each in differences if each["edit"]["name"] == trial.edit]
    assert [(each["kind"], each["canary"]) for each in own] == [("removed", NAME), ("added", "")]
    out = tmp_path / "out.jsonl"
    _errata(system, "export", str(out), "--lane", LANE)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["canary"] for row in rows if row["name"] == trial.edit] == [""]
