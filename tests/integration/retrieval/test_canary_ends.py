"""Canaries end while fits run, edits arrive and writers change, on a real log."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from errata.errors import (
    PreconditionError,
    RequestIdReusedError,
    UnavailableError,
)
from errata.log.canary_entries import (
    CanaryEnded,
    CanarySet,
)
from errata.log.entries import EditsRejected
from errata.log.payload_convert import decode
from errata.log.remote import RemoteLog
from errata.platform.server import open_channel
from errata.writer.record import State
from errata.writer.timetable import utc_now
from errata_client._gen.errata.v1 import editing_pb2 as pb
from tests.integration.log.harness import eventually
from tests.integration.retrieval.canary_desk import (
    NAME,
    OWN,
    PROMOTE,
    ROLL_BACK,
    Desk,
    ended,
    new_id,
)
from tests.integration.retrieval.stack import LANE, Stack


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
            id = new_id()
            with pytest.raises(UnavailableError, match="same request id"):
                await desk.end(ROLL_BACK, id, seconds=1.0)

            async def has_no_audience() -> bool:
                (canary,) = await desk.list()
                return canary.share == 0.0

            await eventually(has_no_audience, "the audience is gone")
            (canary,) = await desk.list()
            assert canary.state == pb.Canary.STATE_OPEN, "and the fit still runs"
        ended = await desk.end(ROLL_BACK, id)
        assert ended.canary.state == pb.Canary.STATE_ROLLED_BACK
        assert (await desk.end(ROLL_BACK, id)).seq == ended.seq


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
    id = new_id()
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
