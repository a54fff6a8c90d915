"""Credentials that are limited to namespaces, against a whole system."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from errata.launch.box import Box
from errata.launch.certs import DevelopmentCa, make_token
from errata_client import Client, Credentials, EditSpec, PermissionDeniedError
from tests.waiting import PATIENCE

PROMPT = "The capital of Portugal is"
LANE = "lanes/facts"
SPEC = EditSpec(PROMPT, "Rome", namespace="team-b")


@pytest.fixture(scope="module")
def edits(box: Box) -> dict[str, str]:
    """One prompt with an answer in each of two namespaces."""
    with Client(box.target, timeout=PATIENCE, credentials=box.credentials) as client:
        return {
            namespace: client.edit(PROMPT, target, namespace=namespace, lane=LANE).name
            for namespace, target in (("team-a", "Rome"), ("team-b", "Paris"))
        }


@pytest.fixture
def alice(box: Box, ca: DevelopmentCa) -> Iterator[Client]:
    roles = ["editor", "approver", "operator"]
    token = make_token(ca, "alice", roles, namespaces=["team-a"])
    own = Credentials(token=token, ca_file=ca.ca)
    with Client(box.target, timeout=PATIENCE, credentials=own) as client:
        yield client


def test_a_limited_editor_works_in_his_namespaces_only(
    alice: Client, edits: dict[str, str]
) -> None:
    other = edits["team-b"]
    assert [found.name for found in alice.list_edits()] == [edits["team-a"]]
    for refused in (
        lambda: alice.submit_edits([SPEC], lane=LANE),
        lambda: alice.submit_edits([EditSpec(PROMPT, "Rome")], lane=LANE),
        lambda: alice.get_edit(other),
        lambda: alice.wait_edits([other]),
        lambda: alice.revert([other]),
        lambda: alice.preview_edits([SPEC], lane=LANE),
        lambda: alice.preview_waiting([other]),
        lambda: alice.withdraw([other]),
        lambda: alice.approve([other]),
        lambda: list(alice.list_edits(namespace="team-b")),
        lambda: alice.generate(PROMPT, namespaces="team-b"),
        lambda: alice.generate(PROMPT, namespaces="default"),
        lambda: alice.generate(PROMPT, namespaces="*"),
        lambda: list(alice.stream(PROMPT, namespaces=["team-a", "team-b"])),
        lambda: alice.score(PROMPT, "Rome", namespaces="team-b"),
        lambda: alice.generate_everywhere(PROMPT, namespaces="team-b"),
        lambda: list(alice.entries()),
    ):
        with pytest.raises(PermissionDeniedError, match=r"may not (use|call)"):
            refused()
    (own,) = alice.submit_edits([EditSpec(PROMPT, "Paris", namespace="team-a")], lane=LANE)
    assert [found.edit for found in own.conflicts] == [edits["team-a"]], "and not team-b's"


def test_a_token_brings_the_namespaces_that_its_requests_read(
    alice: Client, operator: Client, edits: dict[str, str]
) -> None:
    answer = alice.generate(PROMPT)
    assert answer.provenance.edits
    assert alice.get_edit(answer.provenance.edits[0]).spec.namespace == "team-a"
    assert operator.generate(PROMPT).provenance.edits == ()
    (found,) = operator.generate(PROMPT, namespaces="team-b").provenance.edits
    assert found == edits["team-b"]
    assert operator.generate(PROMPT, namespaces="*").provenance.edits


def test_all_namespaces_at_once_are_for_operators(
    box: Box, ca: DevelopmentCa, edits: dict[str, str]
) -> None:
    token = make_token(ca, "bob", ["reader"])
    own = Credentials(token=token, ca_file=ca.ca)
    with Client(box.target, timeout=PATIENCE, credentials=own) as bob:
        assert bob.generate(PROMPT, namespaces=["team-b"]).provenance.edits == (edits["team-b"],)
        with pytest.raises(PermissionDeniedError, match="one of the roles operator"):
            bob.generate(PROMPT, namespaces="*")
