"""Canaries are opened, changed and listed through the writer's service, on a real log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from errata.errors import (
    ErrataError,
    InvalidEditError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    RequestIdReusedError,
)
from errata.log.signing.keys import SigningKey
from errata.platform.security.identity import Identity, enter
from errata.writer.lanes import configure
from errata.writer.signing import WriterKeys
from errata_client._gen.errata.v1 import editing_pb2 as pb
from errata_client._gen.errata.v1 import types_pb2
from tests.integration.retrieval.canary_desk import (
    NAME,
    OPERATOR,
    OWN,
    PROMOTE,
    ROLL_BACK,
    Desk,
    call,
    new_id,
)
from tests.integration.retrieval.stack import FACTS, LANE, Stack


async def test_equal_requests_with_one_id_get_the_same_answer(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        desk = Desk(writer)
        id = new_id()
        first = await desk.open(id, share=0.5)
        assert (await desk.open(id, share=0.5)).seq == first.seq
        for changed in ({"share": 0.4}, {"author": "bob"}, {"comment": "why"}, {"readers": ["a"]}):
            with pytest.raises(RequestIdReusedError):
                await desk.open(id, **{"share": 0.5, **changed})
        submitted = new_id()
        name = await desk.submit("Finland", id=submitted)
        ending = new_id()
        ended = await desk.end(PROMOTE, ending)
        assert (await desk.end(PROMOTE, ending)).seq == ended.seq
        with pytest.raises(RequestIdReusedError):
            await desk.end(ROLL_BACK, ending)
        with pytest.raises(RequestIdReusedError):
            await desk.end(PROMOTE, id)
        assert (await desk.open(id, share=0.5)).seq == first.seq
        assert await desk.submit("Finland", id=submitted) == name, "the canary has ended meanwhile"
        assert len(await desk.list()) == 1


async def test_audience_and_rule_change_and_lane_and_namespace_do_not(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), others=("other",)) as writer:
        desk = Desk(writer)
        rule = types_pb2.CanaryRule(min_requests=10, max_error_increase=0.5)
        opened = await desk.open(lane="lanes/other", namespace="acme", rule=rule)
        changed = (await desk.open(share=0.5)).canary
        assert (changed.lane, changed.namespace, changed.share) == ("lanes/other", "acme", 0.5)
        assert (changed.opened_seq, changed.HasField("rule")) == (opened.seq, False)
        assert changed.set_seq > opened.seq
        for fields in ({"lane": LANE}, {"namespace": "default"}):
            with pytest.raises(PreconditionError, match="cannot change"):
                await desk.open(**fields)


async def test_one_of_two_who_open_a_canary_at_once_learns_that_it_is_there(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        desk = Desk(writer)
        ids = [new_id(), new_id()]
        made = await asyncio.gather(
            *(desk.open(id, share=0.1, must_be_new=True) for id in ids), return_exceptions=True
        )
        (refused,) = (each for each in made if isinstance(each, BaseException))
        assert isinstance(refused, PreconditionError)
        assert (
            refused.message
            == f"{NAME} is open already; change it with set, or choose another name."
        )
        (winner,) = (each for each in made if not isinstance(each, BaseException))
        id = ids[made.index(winner)]
        assert (await desk.open(id, share=0.1, must_be_new=True)).seq == winner.seq, "a retry"
        await desk.open(share=0.2)
        (canary,) = await desk.list()
        assert (canary.opened_seq, canary.share) == (winner.seq, 0.2)


async def test_a_share_and_an_outcome_must_be_said(stack: Stack) -> None:
    """A JSON body without a share would else empty the audience."""
    async with stack.writer(stack.lane_model()) as writer:
        desk = Desk(writer)
        await desk.open(share=0.5)
        with pytest.raises(InvalidRequestError, match="share is not given") as refused:
            await desk.service.SetCanary(
                pb.SetCanaryRequest(request_id=new_id(), name=NAME), call()
            )
        assert refused.value.field == "share"
        assert (await desk.open(share=0)).canary.share == 0
        with pytest.raises(InvalidRequestError, match="give OUTCOME_PROMOTE or OUTCOME_ROLL_BACK"):
            await desk.end(pb.EndCanaryRequest.OUTCOME_UNSPECIFIED)
        await desk.end(PROMOTE, author="")
        with pytest.raises(PreconditionError, match="was promoted at entry"):
            await desk.end(PROMOTE)


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"name": "trial"}, InvalidRequestError, "use canaries/"),
        ({"share": 1.5}, InvalidRequestError, "it can be 0 to 1"),
        ({"share": -0.1}, InvalidRequestError, "it can be 0 to 1"),
        ({"share": 1e-8}, InvalidRequestError, "at least 1e-06"),
        ({"readers": ["*"]}, InvalidRequestError, "no name of a namespace"),
        ({"namespace": "Acme"}, InvalidRequestError, "no name of a namespace"),
        ({"rule": types_pb2.CanaryRule()}, InvalidRequestError, "give at least 1"),
        (
            {"rule": types_pb2.CanaryRule(min_requests=1, max_error_increase=2)},
            InvalidRequestError,
            "give a share of 0 to 1",
        ),
        ({"lane": "lanes/none"}, ErrataError, "there is no lane"),
    ],
)
async def test_what_no_canary_can_be_is_refused(
    stack: Stack, fields: dict[str, Any], error: type[ErrataError], says: str
) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        with pytest.raises(error, match=says):
            await Desk(writer).open(**fields)
        assert await Desk(writer).list() == []


async def test_lanes_that_change_weights_have_none(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        weights = configure("weights", "adaple", {}, writer._edited.model.digest)
        await writer._publisher.append_own("weights", weights)
        with pytest.raises(InvalidRequestError, match="use lanes/facts") as refused:
            await Desk(writer).open(lane="lanes/weights")
        assert refused.value.field == "lane"
        await Desk(writer).open()
        spec = types_pb2.EditSpec(prompt=FACTS[0][0], target="Finland", canary=NAME)
        request = pb.SubmitEditsRequest(request_id=new_id(), edits=[spec], lane="lanes/weights")
        with pytest.raises(InvalidEditError, match="is of lanes/facts, and not of lanes/weights"):
            await Desk(writer).service.SubmitEdits(request, call())


async def test_a_credentials_limits_hold_for_canaries(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        desk = Desk(writer)
        await desk.open(namespace="team-b")
        await desk.open(name="canaries/shared", namespace="team-a", readers=["team-b", "team-d"])

        async def of_alice() -> None:
            enter(Identity("alice", OPERATOR, namespaces=frozenset({"team-a", "team-d"})))
            for name in (NAME, "canaries/unknown"):
                with pytest.raises(NotFoundError, match="there is no canary") as hidden:
                    await desk.end(PROMOTE, name=name)
                assert "team-b" not in hidden.value.message
            with pytest.raises(PreconditionError, match="choose another name") as taken:
                await desk.open(share=0.5)
            assert "team-b" not in taken.value.message
            for refused in (
                lambda: desk.open(name="canaries/own", namespace="team-b"),
                lambda: desk.open(name="canaries/own"),
                lambda: desk.open(name="canaries/own", namespace="team-a", readers=["team-b"]),
                lambda: desk.submit("Finland"),
            ):
                with pytest.raises(PermissionDeniedError):
                    await refused()
            with pytest.raises(PreconditionError, match="is not open"):
                await desk.submit("Finland", namespace="team-a")
            with pytest.raises(NotFoundError):
                await desk.list(name=NAME)
            await desk.open(name="canaries/own", namespace="team-a", readers=["team-d"])
            own, shared = await desk.list()
            assert (own.name, shared.name) == ("canaries/own", "canaries/shared")
            assert list(shared.readers) == ["team-d"], "she may not know the other one"
            with pytest.raises(PermissionDeniedError, match="readers that you may not see"):
                await desk.open(name=shared.name, readers=["team-d"])
            await desk.end(ROLL_BACK, name=shared.name)

        await asyncio.create_task(of_alice())
        assert len(await desk.list()) == 3


async def test_canaries_are_listed_newest_first_page_by_page(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        desk = Desk(writer)
        names = [f"canaries/c{number}" for number in range(5)]
        for name in names:
            await desk.open(name=name)
        await desk.end(PROMOTE, name=names[3])
        first = await desk.service.ListCanaries(pb.ListCanariesRequest(page_size=2), call())
        assert [each.name for each in first.canaries] == [names[4], names[3]]
        await desk.open(name="canaries/new")
        again = pb.ListCanariesRequest(page_size=2, page_token=first.next_page_token)
        second = await desk.service.ListCanaries(again, call())
        assert [each.name for each in second.canaries] == [names[2], names[1]]
        left = [each.name for each in await desk.list(only_open=True)]
        assert left == ["canaries/new", names[4], names[2], names[1], names[0]]
        (one,) = await desk.list(name=names[3])
        assert one.state == pb.Canary.STATE_PROMOTED
        with pytest.raises(NotFoundError, match="canaries/nothing"):
            await desk.list(name="canaries/nothing")


ONE_NAMESPACE: dict[str, tuple[str, dict[str, Any]]] = {
    "elder, one bank": ("elder", {"bank_edits": 0}),
    "lemoe, literal": ("lemoe", {"routing": "literal"}),
    "lemoe, no scope": ("lemoe", {"scope": "off"}),
}


@pytest.mark.parametrize("case", ONE_NAMESPACE)
async def test_lanes_of_one_namespace_have_none(stack: Stack, case: str) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        digest = writer._edited.model.digest
        for name, (method, config) in {
            "single": ONE_NAMESPACE[case],
            "banks": ("elder", {"bank_edits": 4}),
            "anchored": ("lemoe", {}),
        }.items():
            await writer._publisher.append_own(name, configure(name, method, config, digest))
        desk, able = Desk(writer), "use lanes/anchored or lanes/banks or lanes/facts"
        with pytest.raises(InvalidRequestError, match=f"takes edits of one namespace.*{able}"):
            await desk.open(lane="lanes/single")
        assert await desk.list() == []
        for name in ("banks", "anchored"):
            await desk.open(name=f"canaries/{name}", lane=f"lanes/{name}")


async def test_decisions_on_canaries_are_signed(stack: Stack) -> None:
    keys = WriterKeys(SigningKey.generate())
    async with stack.writer(stack.lane_model(), config=OWN, keys=keys) as writer:
        desk = Desk(writer)
        await desk.open()
        await desk.put("Finland")
        ended = await desk.end(ROLL_BACK)
        assert ended.canary.state == pb.Canary.STATE_ROLLED_BACK
    async with stack.writer(stack.lane_model(), config=OWN, keys=keys) as writer:
        (canary,) = await Desk(writer).list()
        assert canary == ended.canary, "another writer reads the same log"
