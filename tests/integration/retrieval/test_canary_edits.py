"""Edits are submitted to canaries through the writer's service, on a real log."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from errata.errors import (
    InvalidEditError,
    PreconditionError,
)
from errata.log.canary_entries import (
    CanaryEnded,
    Outcome,
)
from errata.platform.security.identity import Identity, enter
from errata.writer.compaction import CompactionOptions
from errata.writer.record import State
from errata.writer.timetable import utc_now
from errata_client._gen.errata.v1 import editing_pb2 as pb
from errata_client._gen.errata.v1 import types_pb2
from tests.integration.retrieval.canary_desk import (
    NAME,
    OPERATOR,
    OWN,
    PROMOTE,
    Desk,
    call,
    new_id,
)
from tests.integration.retrieval.stack import FACTS, LANE, Stack
from tests.integration.retrieval.test_compaction import CONFIGS
from tests.waiting import PATIENCE


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


async def test_edits_that_wait_go_on_when_their_canary_is_promoted(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN, requires_approval=True) as writer:
        desk = Desk(writer)
        await desk.open(namespace="acme")
        name = await desk.submit("Finland")
        await desk.end(PROMOTE)
        review = pb.ReviewEditsRequest(
            request_id=new_id(),
            names=[name],
            verdict=pb.ReviewEditsRequest.VERDICT_APPROVE,
            author="eve",
        )
        await desk.service.ReviewEdits(review, call())
        ledger = writer.ledger
        await ledger.wait_until(lambda: ledger.get(name).state.settled)
        assert ledger.get(name).state is State.COMMITTED
        assert ledger.get(name).edit.namespace == "acme"


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
        both = pb.SubmitEditsRequest(request_id=new_id(), edits=specs)
        with pytest.raises(InvalidEditError, match="is of lanes/other, and not of lanes/facts"):
            await desk.service.SubmitEdits(both, call())

        async def of_alice() -> None:
            limits = {"lanes": frozenset({"facts"})}
            enter(Identity("alice", OPERATOR, **limits))
            with pytest.raises(PreconditionError, match="is not open"):
                await desk.submit("Finland")  # the canary of the other lane is unknown to her

        await asyncio.create_task(of_alice())


async def test_a_lane_is_not_compacted_while_it_has_edits_on_trial(stack: Stack) -> None:
    async with stack.writer(None, "elder", config={**CONFIGS["elder"], "bank_edits": 4}) as writer:
        desk = Desk(writer)
        await desk.open()
        await desk.put("Finland")
        with pytest.raises(PreconditionError, match=f"{NAME}.*end the canary first"):
            await writer.compact(new_id(), LANE, CompactionOptions(), "test", PATIENCE)


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
            review = pb.ReviewEditsRequest(request_id=new_id(), **asked)
            await desk.service.ReviewEdits(review, call())
        await ledger.wait_until(lambda: ledger.get(second).state.settled)
        reversal = pb.RevertEditsRequest(request_id=new_id(), names=[first], author="eve")
        await desk.service.RevertEdits(reversal, call())
        withdrawn = await desk.submit("Pisa", number=3)
        withdrawal = pb.WithdrawEditsRequest(request_id=new_id(), names=[withdrawn], author="ann")
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
            await publisher.append_with_retry(new_id(), over, "eve")
        with pytest.raises(PreconditionError, match=r"edits\[0\].canary: .*; open another one"):
            await waiting
