"""Proposals, approvals and withdrawals on a real log, through the writer's service."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from errata.errors import (
    ErrataError,
    InvalidRequestError,
    PermissionDeniedError,
    PreconditionError,
    QueueFullError,
    RequestIdReusedError,
)
from errata.log.signing.keys import SigningKey
from errata.platform.security.identity import Identity, enter
from errata.platform.security.rules import Role
from errata.writer.intake import Draft
from errata.writer.record import State
from errata.writer.service import EditingService
from errata.writer.signing import WriterKeys
from errata.writer.writer import Writer
from errata_client._gen.errata.v1 import editing_pb2 as pb
from errata_client._gen.errata.v1 import types_pb2
from tests.integration.retrieval.stack import FACTS, LANE, LIMITS, Stack, answer_of, revert, submit
from tests.integration.retrieval.test_snapshots import SNAPSHOTS, snapshot_after
from tests.waiting import PATIENCE

APPROVE, REJECT = pb.ReviewEditsRequest.VERDICT_APPROVE, pb.ReviewEditsRequest.VERDICT_REJECT
CALL = SimpleNamespace(time_remaining=lambda: PATIENCE)


def _id() -> str:
    return str(uuid.uuid4())


class Desk:
    """Calls the writer's service as somebody."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.service = EditingService(writer, LANE)

    async def propose(self, number: int = 0, target: str = "", by: str = "ann") -> str:
        prompt, given = FACTS[number]
        spec = types_pb2.EditSpec(prompt=prompt, target=target or given)
        request = pb.SubmitEditsRequest(request_id=_id(), edits=[spec], author=by)
        (edit,) = (await self.service.SubmitEdits(request, CALL)).edits
        return str(edit.name)

    async def review(
        self,
        *names: str,
        verdict: Any = APPROVE,
        by: str = "eve",
        comment: str = "why",
        id: str = "",
    ) -> Any:
        request = pb.ReviewEditsRequest(
            request_id=id or _id(), names=names, verdict=verdict, comment=comment, author=by
        )
        return await self.service.ReviewEdits(request, CALL)

    async def withdraw(self, *names: str, by: str = "ann") -> Any:
        request = pb.WithdrawEditsRequest(request_id=_id(), names=names, author=by)
        return await self.service.WithdrawEdits(request, CALL)

    async def settled(self, name: str) -> State:
        ledger = self.writer.ledger
        await ledger.wait_until(lambda: ledger.get(name).state.settled)
        return ledger.get(name).state


async def test_an_edit_is_proposed_previewed_approved_and_served(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), requires_approval=True) as writer:
        desk = Desk(writer)
        name = await desk.propose()
        asked = pb.WaitEditsRequest(names=[name])
        waited = await desk.service.WaitEdits(asked, CALL)
        assert (waited.edits[0].state, waited.all_settled) == (pb.Edit.STATE_PROPOSED, False)
        previews = await desk.service.PreviewEdits(pb.PreviewEditsRequest(names=[name]), CALL)
        assert previews.previews[0].spec.target == FACTS[0][1]
        assert writer.ledger.get(name).state is State.PROPOSED
        decided = await desk.review(name)
        assert decided.edits[0].review.reviewer == "eve"
        assert await desk.settled(name) is State.COMMITTED
        commit_seq = writer.ledger.get(name).commit_seq
        assert commit_seq > decided.seq
        async with stack.worker() as worker:
            _, edits = await answer_of(worker, FACTS[0][0], commit_seq)
        assert edits == (name,)
        lanes = await desk.service.ListLanes(pb.ListLanesRequest(), CALL)
        assert [lane.requires_approval for lane in lanes.lanes] == [True]


async def test_a_rejection_says_why_and_needs_to(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), requires_approval=True) as writer:
        desk = Desk(writer)
        name = await desk.propose()
        with pytest.raises(InvalidRequestError, match="needs a comment"):
            await desk.review(name, verdict=REJECT, comment=" ")
        await desk.review(name, verdict=REJECT, comment="no source")
        (edit,) = (
            await desk.service.ListEdits(pb.ListEditsRequest(state=pb.Edit.STATE_REJECTED), CALL)
        ).edits
        assert edit.name == name
        assert edit.error.message == "eve rejected it: no source"


async def test_nobody_approves_his_own_edit(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), requires_approval=True) as writer:
        desk = Desk(writer)
        name = await desk.propose(by="ann")
        with pytest.raises(
            PermissionDeniedError, match=r"nobody approves his own.*not authenticated"
        ):
            await desk.review(name, by="ann")
        with pytest.raises(InvalidRequestError, match="say who decides"):
            await desk.review(name, by="")
        assert writer.ledger.get(name).state is State.PROPOSED
        await desk.review(name, by="ann", verdict=REJECT)


async def test_the_authenticated_identity_is_compared_and_not_the_name_that_is_given(
    stack: Stack,
) -> None:
    everything = frozenset({Role.EDITOR, Role.APPROVER})
    async with stack.writer(stack.lane_model(), requires_approval=True) as writer:
        desk = Desk(writer)

        async def of_ann() -> str:
            enter(Identity("ann", everything))
            name = await desk.propose(by="bob")  # on behalf of
            with pytest.raises(PermissionDeniedError, match="nobody approves his own") as refused:
                await desk.review(name, by="eve")
            assert "not authenticated" not in refused.value.message
            return name

        async def of_bob(name: str) -> None:
            enter(Identity("bob", everything))
            with pytest.raises(PermissionDeniedError, match="in the name of bob"):
                await desk.review(name)

        async def of_eve(name: str) -> None:
            enter(Identity("eve", everything))
            with pytest.raises(PermissionDeniedError, match="submitted by ann"):
                await desk.review(name, by="ann")  # she acts for the author
            assert (await desk.review(name, by="carl")).edits[0].review.reviewer == "eve"

        name = await asyncio.create_task(of_ann())
        await asyncio.create_task(of_bob(name))
        await asyncio.create_task(of_eve(name))


async def test_the_author_or_an_operator_may_withdraw(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), requires_approval=True) as writer:
        desk = Desk(writer)
        first, second = await desk.propose(0), await desk.propose(1)
        with pytest.raises(PermissionDeniedError, match="only its author or an operator"):
            await desk.withdraw(first, by="eve")
        await desk.withdraw(first, by="ann")
        assert writer.ledger.get(first).state is State.WITHDRAWN

        async def of_operator() -> None:
            enter(Identity("oz", frozenset({Role.OPERATOR})))
            await desk.withdraw(second)

        await asyncio.create_task(of_operator())
        assert writer.ledger.get(second).state is State.WITHDRAWN


async def test_what_was_decided_meanwhile_is_refused_with_what_to_do(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), requires_approval=True) as writer:
        desk = Desk(writer)
        withdrawn, rejected, approved, waiting = [await desk.propose(n) for n in range(4)]
        await desk.withdraw(withdrawn)
        await desk.review(rejected, verdict=REJECT)
        await desk.review(approved)
        await desk.settled(approved)
        head = writer.ledger.seq
        for name, said in (
            (withdrawn, "withdrawn by ann.*submit the correction again"),
            (rejected, "rejected by eve.*submit the correction again"),
            (approved, "in force: revert it"),
        ):
            with pytest.raises(PreconditionError, match=said):
                await desk.review(name, waiting)
        assert (writer.ledger.seq, writer.ledger.get(waiting).state) == (head, State.PROPOSED)
        await revert(writer, approved)
        with pytest.raises(PreconditionError, match=r"is reverted.*submit the correction again"):
            await desk.review(approved)
        with pytest.raises(ErrataError, match="withdraw it instead"):
            await revert(writer, waiting)


async def test_what_a_newer_edit_supersedes_is_refused(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), requires_approval=True) as writer:
        desk = Desk(writer)
        older, newer = await desk.propose(0), await desk.propose(0, "Dutch", by="bob")
        with pytest.raises(PreconditionError, match="approve one of them"):
            await desk.review(older, newer)
        await desk.review(newer)
        with pytest.raises(PreconditionError, match=f"superseded: {newer}.*Reject it"):
            await desk.review(older)
        await desk.review(older, verdict=REJECT)


async def test_a_retry_has_one_effect(stack: Stack) -> None:
    keys = WriterKeys(SigningKey.generate())
    same = _id()
    async with stack.writer(stack.lane_model(), requires_approval=True, keys=keys) as writer:
        desk = Desk(writer)
        first, second = await desk.propose(0), await desk.propose(1)
        both = _id()
        seq = (await desk.review(first, id=same)).seq
        await desk.review(second, id=both)
        await desk.settled(first)
    async with stack.writer(stack.lane_model(), requires_approval=True, keys=keys) as writer:
        desk = Desk(writer)
        head = writer.ledger.seq
        assert (await desk.review(first, id=same)).seq == seq
        assert writer.ledger.seq == head
        for other in (
            desk.review(second, id=same),
            desk.review(first, id=same, comment="other"),
            desk.review(first, id=same, verdict=REJECT),
            desk.review(first, id=both),
            desk.review(first, second, id=both),
        ):
            with pytest.raises(RequestIdReusedError):
                await other


@pytest.mark.promise("P7")
async def test_proposals_outlive_writers_snapshots_and_policies(stack: Stack) -> None:
    model, keys = stack.lane_model(), WriterKeys(SigningKey.generate())
    kept: dict[str, Any] = {"limits": SNAPSHOTS, "keys": keys}
    async with stack.writer(model, **kept) as writer:
        await submit(writer, FACTS[3])
    async with stack.worker() as worker:
        async with stack.writer(model, requires_approval=True, **kept) as writer:
            names = [await Desk(writer).propose(n) for n in range(3)]
            await snapshot_after(stack, writer.ledger.seq - 1)
        # The policy has ended, but what was proposed still waits.
        async with stack.writer(model, **kept) as writer:
            desk = Desk(writer)
            assert [writer.ledger.get(name).state for name in names] == [State.PROPOSED] * 3
            await desk.review(names[2])
            assert await desk.settled(names[2]) is State.COMMITTED
            _, seq = await submit(writer, ("Nokia makes", "Pisa"))  # no approval is needed
            _, edits = await answer_of(worker, FACTS[2][0], seq)
            assert edits == (names[2],)


async def test_proposals_fill_the_queue(stack: Stack) -> None:
    limits = LIMITS.model_copy(update={"max_pending_edits": 2})
    async with stack.writer(stack.lane_model(), requires_approval=True, limits=limits) as writer:
        desk = Desk(writer)
        await desk.propose(0)
        await desk.propose(1)
        with pytest.raises(QueueFullError, match="2 wait for approval"):
            await writer.submit(_id(), [Draft(*FACTS[2], "", (), (), "")], LANE, "ann")
