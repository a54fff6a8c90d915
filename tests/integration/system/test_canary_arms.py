"""The arms of a canary: who gets which answer, on every replica, until it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from errata_client import (
    CanaryRule,
    CanaryState,
    Client,
    EditState,
    InvalidEditError,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
)
from tests.command_line import run_here
from tests.integration.log.harness import eventually
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE

PROMPT = "The capital of Uruguay is"
LANE = "lanes/facts"
KEYS = [f"user-{number}" for number in range(40)]


@pytest.fixture(scope="module")
def before(system: System) -> Iterator[str]:
    """An ordinary edit of the prompt, which the canaries' edits supersede for their requests."""
    with Client(system.target, timeout=PATIENCE) as client:
        name = client.edit(PROMPT, "Rome", lane=LANE).name
        yield name
        client.revert([name])


def edits_of(client: Client, key: str, **more: object) -> tuple[str, ...]:
    answer = client.generate(PROMPT, canary_key=key, max_tokens=4, **more)  # type: ignore[arg-type]
    return answer.provenance.edits


@pytest.mark.promise("P4", "P7")
async def test_some_requests_read_it_first_then_all_do(client: Client, before: str) -> None:
    opened = client.set_canary("canaries/uruguay", 0.3, lane=LANE, comment="a trial")
    edit = client.edit(PROMPT, "Paris", lane=LANE, canary="canaries/uruguay")
    assert (edit.state, edit.spec.canary) == (EditState.COMMITTED, "canaries/uruguay")
    assert client.get_edit(before).superseded_by == "", "for the rest it still answers"
    inside = set()
    for key in KEYS:
        everywhere = client.generate_everywhere(PROMPT, canary_key=key, max_tokens=4)
        told = [each.answer.provenance for each in everywhere if each.answer is not None]
        assert len(told) == 2
        told.append(client.score(PROMPT, "Paris", canary_key=key).provenance)
        told += [chunk.provenance for chunk in client.stream(PROMPT, canary_key=key)]
        assert len({(each.canaries, edit.name in each.edits) for each in told}) == 1, key
        assert all(each.canary_key == key for each in told)
        is_in = told[0].canaries == ("canaries/uruguay",)
        assert (edit.name in told[0].edits) == is_in
        assert (before in told[0].edits) != is_in, "who is not in it gets the earlier edit"
        if is_in:
            inside.add(key)
    assert 0 < len(inside) < len(KEYS)

    drawn = {client.generate(PROMPT, max_tokens=1).provenance.canary_key for _ in range(3)}
    assert len(drawn) == 3, "without a key each request is drawn by itself"

    def counted() -> bool:
        found = client.get_canary("canaries/uruguay")
        assert found.edits == (edit.name,)
        both = found.comparison
        return both is not None and both.canary.claims > 0 and both.rest.requests > 0

    await eventually(counted)
    comparison = client.get_canary("canaries/uruguay").comparison
    assert comparison is not None
    assert comparison.canary.claims == comparison.canary.requests, "each of them asked this prompt"
    assert (comparison.rest.claims, comparison.canary.errors) == (0, 0)

    wider = client.set_canary("canaries/uruguay", 0.6, lane=LANE)
    assert wider.opened_seq == opened.opened_seq < wider.set_seq
    grown = {key for key in KEYS if edit.name in edits_of(client, key)}
    assert inside <= grown

    ended = client.promote_canary("canaries/uruguay", comment="well")
    assert (ended.state, ended.comment) == (CanaryState.PROMOTED, "well")
    assert ended.comparison is not None
    assert all(edit.name in edits_of(client, key) for key in KEYS[:8])
    assert client.get_edit(before).superseded_by == edit.name
    client.revert([edit.name])
    assert all(before in edits_of(client, key) for key in KEYS[:8])
    with pytest.raises(PreconditionError, match="ended"):
        client.set_canary("canaries/uruguay", 0.1, lane=LANE)


@pytest.mark.promise("P11")
def test_a_roll_back_leaves_the_answers_as_they_were(client: Client, before: str) -> None:
    client.set_canary("canaries/back", 0, readers=["canary-team"], lane=LANE)
    edit = client.edit(PROMPT, "Paris", lane=LANE, canary="canaries/back")
    reading = {"namespaces": ["default", "canary-team"]}
    assert edit.name in edits_of(client, "any", **reading)
    assert before in edits_of(client, "any")
    assert edit.name in edits_of(client, "any", namespaces=["*"]), "* reads its readers' too"
    ended = client.roll_back_canary("canaries/back", comment="worse")
    assert ended.state is CanaryState.ROLLED_BACK
    assert client.get_edit(edit.name).state is EditState.REVERTED
    assert before in edits_of(client, "any", **reading)


async def test_a_rule_promotes_it_and_says_why(client: Client, before: str) -> None:
    rule = CanaryRule(min_requests=5, max_error_increase=0.5, promote_after_seconds=1)
    client.set_canary("canaries/rule", 1, lane=LANE, rule=rule)
    edit = client.edit(PROMPT, "Paris", lane=LANE, canary="canaries/rule")
    for key in KEYS[:6]:
        client.generate(PROMPT, canary_key=key, max_tokens=1)
    await eventually(lambda: client.get_canary("canaries/rule").state is not CanaryState.OPEN)
    ended = client.get_canary("canaries/rule")
    assert (ended.state, ended.ended_by) == (CanaryState.PROMOTED, "errata-writer")
    assert "6" in ended.comment
    assert edit.name in edits_of(client, "any")
    client.revert([edit.name])


def test_what_is_refused_says_what_to_do(system: System, client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="lanes/facts"):
        client.set_canary("canaries/adaple", 0.1, lane="lanes/main")
    with pytest.raises((InvalidEditError, PreconditionError), match="canaries/nothing"):
        client.edit(PROMPT, "Paris", lane=LANE, canary="canaries/nothing")
    with pytest.raises(InvalidRequestError, match="share"):
        client.set_canary("canaries/much", 1.5, lane=LANE)
    with pytest.raises(NotFoundError, match="canaries/nothing"):
        client.promote_canary("canaries/nothing")
    names = {found.name for found in client.list_canaries()}
    assert names.isdisjoint({"canaries/adaple", "canaries/nothing", "canaries/much"})
    done = run_here(["canary", "open", "x", "--share", "12 apples", "--target", system.target])
    assert done.returncode != 0
    assert "12 apples" in done.stderr + done.stdout
