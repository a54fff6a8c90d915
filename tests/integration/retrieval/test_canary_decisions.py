"""Canaries are opened, changed and ended through the writer's service, on a real log."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
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
    UnavailableError,
)
from errata.log.canary_entries import (
    CanaryComparison,
    CanaryCounts,
    CanaryEnded,
    CanarySet,
    Outcome,
)
from errata.log.entries import EditsRejected
from errata.log.payload_convert import decode
from errata.log.positions import ReplicaReport
from errata.log.remote import RemoteLog
from errata.log.signing.keys import SigningKey
from errata.platform.security.identity import Identity, enter
from errata.platform.security.rules import Role
from errata.platform.server import open_channel
from errata.writer.canary_book import CanaryRecord
from errata.writer.compaction import CompactionOptions
from errata.writer.lanes import configure
from errata.writer.log_services import LogServices, addresses_of
from errata.writer.metrics import LedgerCollector
from errata.writer.record import State
from errata.writer.service import EditingService
from errata.writer.signing import WriterKeys
from errata.writer.timetable import utc_now
from errata.writer.writer import Writer
from errata_client._gen.errata.v1 import editing_pb2 as pb
from errata_client._gen.errata.v1 import types_pb2
from tests.integration.retrieval.stack import FACTS, LANE, Stack
from tests.integration.retrieval.test_compaction import CONFIGS
from tests.waiting import PATIENCE

PROMOTE, ROLL_BACK = pb.EndCanaryRequest.OUTCOME_PROMOTE, pb.EndCanaryRequest.OUTCOME_ROLL_BACK
NAME = "canaries/trial"
OWN = {"claim": "sentinel", "refine_steps": 0}
"""A RECIPE lane whose edits claim their own prompts."""
OPERATOR = frozenset({Role.OPERATOR})


def call(seconds: float = PATIENCE) -> Any:
    return SimpleNamespace(time_remaining=lambda: seconds)


def _id() -> str:
    return str(uuid.uuid4())


class Desk:
    """Calls the writer's service."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.service = EditingService(writer, LANE)

    async def open(self, id: str = "", **fields: Any) -> pb.SetCanaryResponse:
        asked: dict[str, Any] = {"name": NAME, "share": 0.1, "author": "ann", **fields}
        request = pb.SetCanaryRequest(request_id=id or _id(), **asked)
        return await self.service.SetCanary(request, call())

    async def end(
        self, outcome: Any, id: str = "", seconds: float = PATIENCE, **fields: Any
    ) -> pb.EndCanaryResponse:
        asked: dict[str, Any] = {"name": NAME, "author": "eve", "comment": "enough", **fields}
        request = pb.EndCanaryRequest(request_id=id or _id(), outcome=outcome, **asked)
        return await self.service.EndCanary(request, call(seconds))

    async def list(self, **fields: Any) -> list[pb.Canary]:
        response = await self.service.ListCanaries(pb.ListCanariesRequest(**fields), call())
        return list(response.canaries)

    async def submit(
        self,
        target: str,
        canary: str = NAME,
        number: int = 0,
        id: str = "",
        lane: str = "",
        **fields: Any,
    ) -> str:
        spec = types_pb2.EditSpec(prompt=FACTS[number][0], target=target, canary=canary, **fields)
        asked: dict[str, Any] = {"edits": [spec], "author": "ann", "lane": lane}
        request = pb.SubmitEditsRequest(request_id=id or _id(), **asked)
        (edit,) = (await self.service.SubmitEdits(request, call())).edits
        return str(edit.name)

    async def put(self, *args: Any, **fields: Any) -> str:
        """Submits an edit, and waits until it is in force."""
        name = await self.submit(*args, **fields)
        ledger = self.writer.ledger
        await ledger.wait_until(lambda: ledger.get(name).state.settled)
        assert ledger.get(name).state is State.COMMITTED, ledger.get(name).error
        return name

    async def get(self, name: str) -> pb.Edit:
        return (await self.service.GetEdit(pb.GetEditRequest(name=name), call())).edit


async def test_an_edit_of_a_canary_supersedes_once_it_is_promoted(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk = Desk(writer)
        old = await desk.put("football", canary="")
        opened = await desk.open(share=0.25, comment="first try")
        assert opened.canary.state == pb.Canary.STATE_OPEN
        assert (opened.canary.lane, opened.canary.share, opened.seq) == (
            LANE,
            0.25,
            opened.canary.opened_seq,
        )
        new = await desk.put("Finland")
        edit = await desk.get(new)
        assert (edit.spec.canary, edit.spec.namespace) == (NAME, "")
        assert (await desk.get(old)).superseded_by == ""
        asked = pb.PreviewEditsRequest(
            edits=[types_pb2.EditSpec(prompt=FACTS[0][0], target="Pisa", canary=NAME)]
        )
        preview = (await desk.service.PreviewEdits(asked, call())).previews[0]
        found = {(each.kind, each.edit) for each in preview.conflicts}
        assert found == {(pb.EditConflict.KIND_SUPERSEDES, name) for name in (old, new)}
        ended = await desk.end(PROMOTE)
        assert (ended.canary.state, ended.canary.ended_by) == (pb.Canary.STATE_PROMOTED, "eve")
        assert list(ended.canary.edits) == [new]
        assert (await desk.get(old)).superseded_by == new
        assert writer.ledger.get(new).edit.namespace == ""
        assert (await desk.get(new)).spec.canary == NAME


async def test_a_roll_back_reverts_what_is_in_force_and_rejects_what_waits(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk = Desk(writer)
        await desk.open(namespace="acme", readers=["staff", "default"])
        committed = await desk.put("Finland")
        later = {"effective_from": (utc_now() + timedelta(days=1)).replace(microsecond=0)}
        waiting = await desk.submit("Pisa", number=1, **later)
        await desk.end(ROLL_BACK)
        (canary,) = await desk.list()
        assert canary.state == pb.Canary.STATE_ROLLED_BACK
        assert (canary.share, canary.comment) == (0.1, "enough"), "as it was before the end"
        assert list(canary.readers) == ["default", "staff"]
        assert list(canary.edits) == [committed, waiting]
        reverted, rejected = await desk.get(committed), await desk.get(waiting)
        assert (reverted.state, reverted.revert_seq) == (
            pb.Edit.STATE_REVERTED,
            canary.ended_seq,
        )
        assert rejected.state == pb.Edit.STATE_REJECTED
        assert rejected.error.message == (
            f"{NAME} was rolled back before this edit was committed: enough"
        )
        with pytest.raises(PreconditionError, match=r"edits\[0\].canary: .* was rolled back"):
            await desk.submit("Pisa")
        with pytest.raises(PreconditionError, match="was rolled back by eve"):
            await desk.end(PROMOTE)
        with pytest.raises(PreconditionError, match="give the new canary another name"):
            await desk.open()
    kinds = (CanarySet, EditsRejected, CanaryEnded)
    async with open_channel(stack.address) as channel:
        entries = [decode(each).payload async for each in RemoteLog(channel).all_entries()]
    told = [each for each in entries if isinstance(each, kinds)]
    assert [type(each) for each in told] == [CanarySet, *kinds], "the audience goes first"


async def test_the_audience_goes_at_once_while_something_is_being_fitted(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk = Desk(writer)
        await desk.open(share=1.0)
        await desk.put("Finland")
        async with writer._edited.exclusive():  # as a fit does
            id = _id()
            with pytest.raises(UnavailableError, match="same request id"):
                await desk.end(ROLL_BACK, id, seconds=1.0)
            (canary,) = await desk.list()
            assert (canary.state, canary.share) == (pb.Canary.STATE_OPEN, 0.0)
        ended = await desk.end(ROLL_BACK, id)
        assert ended.canary.state == pb.Canary.STATE_ROLLED_BACK
        assert (await desk.end(ROLL_BACK, id)).seq == ended.seq


async def test_edits_that_wait_go_on_when_their_canary_is_promoted(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN, requires_approval=True) as writer:
        desk = Desk(writer)
        await desk.open(namespace="acme")
        name = await desk.submit("Finland")
        await desk.end(PROMOTE)
        review = pb.ReviewEditsRequest(
            request_id=_id(),
            names=[name],
            verdict=pb.ReviewEditsRequest.VERDICT_APPROVE,
            author="eve",
        )
        await desk.service.ReviewEdits(review, call())
        ledger = writer.ledger
        await ledger.wait_until(lambda: ledger.get(name).state.settled)
        assert ledger.get(name).state is State.COMMITTED
        assert ledger.get(name).edit.namespace == "acme"


async def test_equal_requests_with_one_id_get_the_same_answer(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        desk = Desk(writer)
        id = _id()
        first = await desk.open(id, share=0.5)
        assert (await desk.open(id, share=0.5)).seq == first.seq
        for changed in ({"share": 0.4}, {"author": "bob"}, {"comment": "why"}, {"readers": ["a"]}):
            with pytest.raises(RequestIdReusedError):
                await desk.open(id, **{"share": 0.5, **changed})
        submitted = _id()
        name = await desk.submit("Finland", id=submitted)
        ending = _id()
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
        ids = [_id(), _id()]
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
            await desk.service.SetCanary(pb.SetCanaryRequest(request_id=_id(), name=NAME), call())
        assert refused.value.field == "share"
        assert (await desk.open(share=0)).canary.share == 0
        with pytest.raises(InvalidRequestError, match="give OUTCOME_PROMOTE or OUTCOME_ROLL_BACK"):
            await desk.end(pb.EndCanaryRequest.OUTCOME_UNSPECIFIED)
        await desk.end(PROMOTE, author="")
        with pytest.raises(PreconditionError, match="was promoted at entry"):
            await desk.end(PROMOTE)


async def test_edits_of_one_canary_are_listed_also_after_its_end(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk = Desk(writer)
        await desk.open()
        await desk.submit("football", canary="", number=1)
        name = await desk.put("Finland")
        await desk.end(PROMOTE)
        listed = await desk.service.ListEdits(pb.ListEditsRequest(canary=NAME), call())
        assert [edit.name for edit in listed.edits] == [name]
        asked = pb.ListEditsRequest(canary="canaries/none")
        assert not (await desk.service.ListEdits(asked, call())).edits


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


async def test_edits_name_an_open_canary_of_their_lane_and_namespace(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), others=("other",)) as writer:
        desk = Desk(writer)
        with pytest.raises(PreconditionError, match="is not open; open it first") as refused:
            await desk.submit("Finland")
        assert refused.value.field == "edits[0].canary"
        with pytest.raises(InvalidEditError, match="is not valid; use canaries/") as invalid:
            await desk.submit("Finland", canary="trial")
        assert invalid.value.field == "edits[0].canary"
        await desk.open(lane="lanes/other", name="canaries/elsewhere")
        with pytest.raises(InvalidEditError, match="is of lanes/other, and not of lanes/facts"):
            await desk.submit("Finland", canary="canaries/elsewhere", lane=LANE)
        await desk.open(namespace="acme")
        with pytest.raises(InvalidEditError, match="of the namespace acme, and not of default"):
            await desk.submit("Finland", namespace="default")
        name = await desk.submit("Finland")
        assert (await desk.get(name)).spec.namespace == "acme", "the canary's, if it names none"
        listed = await desk.service.ListEdits(pb.ListEditsRequest(namespace="acme"), call())
        assert [edit.name for edit in listed.edits] == [name]
        preview = pb.PreviewEditsRequest(
            edits=[types_pb2.EditSpec(prompt=FACTS[0][0], target="Pisa", canary="canaries/none")]
        )
        with pytest.raises(PreconditionError, match="is not open"):
            await desk.service.PreviewEdits(preview, call())


async def test_edits_without_a_lane_go_to_that_of_their_canaries(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), others=("other",)) as writer:
        desk = Desk(writer)
        await desk.open(lane="lanes/other")
        await desk.open(name="canaries/here")
        name = await desk.submit("Finland")
        assert (await desk.get(name)).lane == "lanes/other"
        preview = pb.PreviewEditsRequest(
            edits=[types_pb2.EditSpec(prompt=FACTS[0][0], target="Pisa", canary=NAME)]
        )
        assert (await desk.service.PreviewEdits(preview, call())).lane == "lanes/other"
        assert (await desk.get(await desk.submit("Pisa", canary=""))).lane == LANE
        specs = [
            types_pb2.EditSpec(prompt=FACTS[number][0], target="Pisa", canary=canary)
            for number, canary in enumerate((NAME, "canaries/here"))
        ]
        both = pb.SubmitEditsRequest(request_id=_id(), edits=specs)
        with pytest.raises(InvalidEditError, match="is of lanes/other, and not of lanes/facts"):
            await desk.service.SubmitEdits(both, call())

        async def of_alice() -> None:
            limits = {"lanes": frozenset({"facts"})}
            enter(Identity("alice", OPERATOR, **limits))
            with pytest.raises(PreconditionError, match="is not open"):
                await desk.submit("Finland")  # the canary of the other lane is unknown to her

        await asyncio.create_task(of_alice())


async def test_lanes_that_change_weights_have_none(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        weights = configure("weights", "adaple", {}, writer._edited.model.digest)
        await writer._publisher.append_own("weights", weights)
        with pytest.raises(InvalidRequestError, match="use lanes/facts") as refused:
            await Desk(writer).open(lane="lanes/weights")
        assert refused.value.field == "lane"
        await Desk(writer).open()
        spec = types_pb2.EditSpec(prompt=FACTS[0][0], target="Finland", canary=NAME)
        request = pb.SubmitEditsRequest(request_id=_id(), edits=[spec], lane="lanes/weights")
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


async def test_a_lane_is_not_compacted_while_it_has_edits_on_trial(stack: Stack) -> None:
    async with stack.writer(None, "elder", config={**CONFIGS["elder"], "bank_edits": 4}) as writer:
        desk = Desk(writer)
        await desk.open()
        await desk.put("Finland")
        with pytest.raises(PreconditionError, match=f"{NAME}.*end the canary first"):
            await writer.compact(_id(), LANE, CompactionOptions(), "test", PATIENCE)


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


async def test_edits_of_a_canary_are_decided_on_as_others(stack: Stack) -> None:
    start, passed = utc_now(), timedelta(0)
    model = stack.lane_model()
    async with stack.writer(
        model, config=OWN, requires_approval=True, clock=lambda: start + passed
    ) as writer:
        desk, ledger = Desk(writer), writer.ledger
        await desk.open()
        day = {"expires_at": start + timedelta(days=1)}
        first, second, third = [
            await desk.submit("Finland", number=number, **day) for number in range(3)
        ]
        for names, verdict in (
            ([first, second], pb.ReviewEditsRequest.VERDICT_APPROVE),
            ([third], pb.ReviewEditsRequest.VERDICT_REJECT),
        ):
            asked = {"names": names, "verdict": verdict, "comment": "why", "author": "eve"}
            review = pb.ReviewEditsRequest(request_id=_id(), **asked)
            await desk.service.ReviewEdits(review, call())
        await ledger.wait_until(lambda: ledger.get(second).state.settled)
        reversal = pb.RevertEditsRequest(request_id=_id(), names=[first], author="eve")
        await desk.service.RevertEdits(reversal, call())
        withdrawn = await desk.submit("Pisa", number=3)
        withdrawal = pb.WithdrawEditsRequest(request_id=_id(), names=[withdrawn], author="ann")
        await desk.service.WithdrawEdits(withdrawal, call())
        passed = timedelta(days=2)
        await ledger.wait_until(lambda: ledger.get(second).state is State.REVERTED)
        states = [ledger.get(name).state for name in (first, third, withdrawn)]
        assert states == [State.REVERTED, State.REJECTED, State.WITHDRAWN]
        assert list((await desk.end(PROMOTE)).canary.edits) == [first, second, third, withdrawn]


async def test_no_edit_arrives_in_a_canary_while_its_end_is_decided(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk = Desk(writer)
        await desk.open()
        async with writer._decisions:
            waiting = asyncio.create_task(desk.submit("Finland"))
            for number in range(3):
                await desk.submit("Pisa", canary="", number=number)
            assert not waiting.done()
            assert not writer.ledger.canaries.edits_of(NAME)
        name = await waiting
        assert list(writer.ledger.canaries.edits_of(NAME)) == [name]


async def test_what_changed_while_an_edit_waited_is_checked_again(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk, publisher = Desk(writer), writer._publisher
        await desk.open()
        async with writer._decisions:
            waiting = asyncio.create_task(desk.submit("Finland"))
            await desk.submit("Pisa", canary="", number=1)  # checked later, appended earlier
            over = CanaryEnded(NAME, Outcome.PROMOTED, ())
            await publisher.append_with_retry(_id(), over, "eve")
        with pytest.raises(PreconditionError, match=r"edits\[0\].canary: .*; open another one"):
            await waiting


async def test_a_canary_can_be_rolled_back_while_edits_arrive(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk = Desk(writer)
        await desk.open()
        arriving = [
            asyncio.create_task(desk.submit(f"target {number}", number=number % 4))
            for number in range(12)
        ]
        await asyncio.wait(arriving, return_when=asyncio.FIRST_COMPLETED)
        ended = await desk.end(ROLL_BACK)
        found = await asyncio.gather(*arriving, return_exceptions=True)
        names = [each for each in found if isinstance(each, str)]
        assert names, "one was there first"
        assert all(isinstance(each, (str, PreconditionError)) for each in found), found
        assert sorted(ended.canary.edits) == sorted(names)
        states = {writer.ledger.get(name).state for name in names}
        assert states <= {State.REJECTED, State.REVERTED}


@pytest.mark.parametrize("author", ["eve", "errata-writer"])
async def test_a_roll_back_that_has_begun_is_finished_whoever_began_it(
    stack: Stack, author: str
) -> None:
    id = _id()
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk = Desk(writer)
        await desk.open()
        name = await desk.put("Finland")
        # As far as a writer came that was killed in the middle.
        stopped = CanarySet(NAME, LANE, "", 0, comment="it failed", rolls_back=True)
        await writer._publisher.append_with_retry(id, stopped, author)
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        canary = await ended(writer)
        assert (canary.state, canary.comment) == (pb.Canary.STATE_ROLLED_BACK, "it failed")
        assert canary.ended_by == author
        assert writer.ledger.get(name).state is State.REVERTED
        desk = Desk(writer)
        again = await desk.end(ROLL_BACK, id, author=author, comment="it failed")
        assert again.seq == canary.ended_seq, "the caller's retry gets the answer"
        with pytest.raises(RequestIdReusedError):
            await desk.end(PROMOTE, id, author=author, comment="it failed")


async def test_whoever_only_says_that_he_is_the_writer_begins_no_roll_back(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk = Desk(writer)
        await desk.open()
        await desk.open(share=0.0, author="errata-writer")
        await writer._canary_watch.look()
        await writer._detached.drain()
        (canary,) = await desk.list()
        assert canary.state == pb.Canary.STATE_OPEN


async def test_a_roll_back_wins_over_a_promotion_that_waits_for_a_fit(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk = Desk(writer)
        opened = await desk.open(share=1.0)
        name = await desk.put("Finland")
        async with writer._edited.exclusive():  # as a fit does
            promotion = asyncio.create_task(desk.end(PROMOTE))
            await asyncio.sleep(0)
            reversal = asyncio.create_task(desk.end(ROLL_BACK, comment="it is wrong"))
            await writer.ledger.wait_until(lambda: writer.ledger.seq > opened.seq + 2)
            with pytest.raises(PreconditionError, match="is being rolled back"):
                await desk.open(share=0.5)  # `errata canary set` that had read the old audience
            with pytest.raises(PreconditionError, match="is being rolled back"):
                await desk.submit("Pisa")
            assert not promotion.done()
            assert not reversal.done()
        with pytest.raises(PreconditionError, match="is being rolled back"):
            await promotion
        assert (await reversal).canary.state == pb.Canary.STATE_ROLLED_BACK
        assert writer.ledger.get(name).state is State.REVERTED


async def test_a_promotion_does_not_outlive_a_change_while_it_waits(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk = Desk(writer)
        await desk.open()
        async with writer._edited.exclusive():  # as a fit does
            promotion = asyncio.create_task(desk.end(PROMOTE))
            await asyncio.sleep(0)
            seq = (await desk.open(share=0.01)).seq
        with pytest.raises(PreconditionError, match=f"changed at entry {seq} while") as refused:
            await promotion
        assert refused.value.metadata["seq"] == str(seq)
        assert (await desk.list())[0].state == pb.Canary.STATE_OPEN
        assert (await desk.end(PROMOTE)).canary.state == pb.Canary.STATE_PROMOTED


async def report(stack: Stack, opened_seq: int, replica: str, **counts: CanaryCounts) -> None:
    """Reports as a replica does, at the log's head."""
    async with open_channel(stack.address) as channel:
        log = RemoteLog(channel)
        head = (await log.state()).head
        counted = {NAME: CanaryComparison(opened_seq, **counts)}
        sent = ReplicaReport(replica, head, "ab" * 32, "worker", canaries=counted)
        assert await log.report(sent, PATIENCE)


async def ended(writer: Writer) -> pb.Canary:
    """The canary, once it has ended."""
    await writer.ledger.wait_until(lambda: not writer.ledger.canaries.has_open)
    (canary,) = await Desk(writer).list()
    return canary


async def test_a_rule_rolls_back_on_what_replicas_reported(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk = Desk(writer)
        rule = types_pb2.CanaryRule(min_requests=100, max_error_increase=0.05)
        opened = (await desk.open(rule=rule)).seq
        name = await desk.put("Finland")
        await report(stack, opened, "one", canary=CanaryCounts(60, errors=1), rest=CanaryCounts(5))
        await report(stack, opened + 1, "two", canary=CanaryCounts(500, errors=500))
        await wait_for(writer, lambda counts: counts.canary.requests == 60)
        (canary,) = await desk.list()
        assert canary.comparison.canary.requests == 60, "another entry opened what `two` counts"
        await report(stack, opened, "two", canary=CanaryCounts(40, errors=9))
        canary = await ended(writer)
        assert (canary.state, canary.ended_by) == (pb.Canary.STATE_ROLLED_BACK, "errata-writer")
        assert canary.comment == (
            "by its rule: 10 of 100 requests (10.00%) in it failed, and 0 of 5 requests (0.00%) of "
            "the rest; the rule allows 5.00% more."
        )
        assert (canary.comparison.canary.requests, canary.comparison.rest.requests) == (100, 5)
        assert (await desk.get(name)).state == pb.Edit.STATE_REVERTED


async def test_a_rule_is_asked_again_once_no_fit_runs(stack: Stack) -> None:
    start, passed = utc_now(), timedelta(days=2)
    async with stack.writer(stack.lane_model(), config=OWN, clock=lambda: start + passed) as writer:
        desk = Desk(writer)
        rule = types_pb2.CanaryRule(
            min_requests=10, max_error_increase=0.05, promote_after_seconds=86_400
        )
        async with writer._edited.exclusive():  # as a fit does
            opened = (await desk.open(rule=rule)).seq
            await report(stack, opened, "one", canary=CanaryCounts(10))
            await wait_for(writer, lambda counts: counts.canary.requests == 10)
            await writer._canary_watch.look()
            await report(stack, opened, "one", canary=CanaryCounts(20, errors=9))
            await wait_for(writer, lambda counts: counts.canary.errors == 9)
            await writer.ledger.wait_until(lambda: record(writer).rolling_back)
        canary = await ended(writer)
        assert (canary.state, canary.ended_by) == (pb.Canary.STATE_ROLLED_BACK, "errata-writer")


def record(writer: Writer) -> CanaryRecord:
    """The canary as the writer knows it."""
    found = writer.ledger.canaries.get(NAME)
    assert found is not None
    return found


async def test_a_rule_promotes_by_the_writers_clock(stack: Stack) -> None:
    start, passed = utc_now(), timedelta(0)
    async with stack.writer(stack.lane_model(), clock=lambda: start + passed) as writer:
        desk = Desk(writer)
        rule = types_pb2.CanaryRule(
            min_requests=10, max_error_increase=0.5, promote_after_seconds=86_400
        )
        opened = (await desk.open(rule=rule)).seq
        await report(stack, opened, "one", canary=CanaryCounts(10))
        await wait_for(writer, lambda counts: counts.canary.requests == 10)
        assert (await desk.list())[0].state == pb.Canary.STATE_OPEN
        passed = timedelta(days=2)
        canary = await ended(writer)
        assert (canary.state, canary.ended_by) == (pb.Canary.STATE_PROMOTED, "errata-writer")
        assert canary.comment.startswith("by its rule: it had this audience for 172,")


async def wait_for(writer: Writer, true: Callable[[CanaryComparison], bool]) -> None:
    """Waits until what was counted has this property; the writer asks every two seconds."""
    async with asyncio.timeout(PATIENCE):
        while (counts := writer.canaries.tally.of(NAME)) is None or not true(counts):
            await asyncio.sleep(0.05)


async def test_all_log_services_of_a_target_are_asked(stack: Stack) -> None:
    assert await addresses_of("10.0.0.1:1,10.0.0.2:2") == ["10.0.0.1:1", "10.0.0.2:2"]
    port = stack.address.rpartition(":")[2]
    assert f"127.0.0.1:{port}" in await addresses_of(f"dns:///localhost:{port}")
    await report(stack, 7, "one", canary=CanaryCounts(3))
    services = LogServices(f"{stack.address},127.0.0.1:1")  # nothing listens on the second one
    try:
        (found,) = await services.canary_reports()
        assert (found.replica, found.canaries[NAME].canary.requests) == ("one", 3)
    finally:
        await services.close()
    nobody = LogServices("127.0.0.1:1")
    try:
        with pytest.raises(ErrataError):
            await nobody.canary_reports()
    finally:
        await nobody.close()


async def test_metrics_tell_what_was_counted(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        opened = (await Desk(writer).open()).seq
        await report(stack, opened, "one", canary=CanaryCounts(10, errors=2), rest=CanaryCounts(90))
        await wait_for(writer, lambda counts: counts.canary.requests == 10)
        found = {
            (sample.name, sample.labels.get("arm", "")): sample.value
            for metric in LedgerCollector(writer.ledger, writer.canaries.tally).collect()
            for sample in metric.samples
            if "canar" in sample.name
        }
        assert found == {
            ("errata_open_canaries", ""): 1.0,
            ("errata_canary_requests", "canary"): 10.0,
            ("errata_canary_requests", "rest"): 90.0,
            ("errata_canary_errors", "canary"): 2.0,
            ("errata_canary_errors", "rest"): 0.0,
        }
