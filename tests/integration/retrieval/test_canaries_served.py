"""Canaries on a real log, from the writer's service to the answers of workers."""

from __future__ import annotations

import asyncio
import hashlib
import uuid

import pytest

from errata.engine.sequence import Piece
from errata.worker.admission import GenerationInput
from errata.worker.replica import Replica
from errata.writer.record import State
from errata_client._gen.errata.v1 import editing_pb2 as pb
from errata_client._gen.errata.v1 import types_pb2
from tests.integration.retrieval.canary_desk import (
    OWN,
    PROMOTE,
    ROLL_BACK,
    Desk,
    call,
    ended,
    wait_for,
)
from tests.integration.retrieval.stack import FACTS, Stack, served
from tests.integration.retrieval.test_namespaces import config_of
from tests.integration.retrieval.test_snapshots import SNAPSHOTS, snapshot_after
from tests.waiting import PATIENCE

PROMPT = FACTS[0][0]
KEYS = [hashlib.sha256(bytes([number])).hexdigest()[:8] for number in range(12)]


async def ask(worker: Replica, min_seq: int, key: str = "", *namespaces: str) -> Piece:
    request = GenerationInput(
        PROMPT, max_tokens=4, min_seq=min_seq, namespaces=namespaces, canary_key=key
    )
    pieces = worker.generate(request, streaming=False, timeout_seconds=PATIENCE)
    return [piece async for piece in pieces][-1]  # to its end: only then is it counted


async def answers(worker: Replica, seq: int) -> dict[str, tuple[str, ...]]:
    """The edits that shaped the answer, by canary key."""
    pieces = await asyncio.gather(*(ask(worker, seq, key) for key in KEYS))
    return {key: piece.edits for key, piece in zip(KEYS, pieces, strict=True)}


@pytest.mark.promise("P7", "P8")
@pytest.mark.parametrize("method", ["recipe", "elder", "lemoe"])
async def test_a_part_of_the_requests_reads_a_trial_until_it_is_promoted(
    stack: Stack, method: str
) -> None:
    name, config = config_of(method)
    model = stack.lane_model() if method == "recipe" else None
    async with (
        stack.writer(model, name, config=config) as writer,
        stack.retrieval() as replica,
        served(replica) as address,
        stack.worker() as worker,
        stack.worker(retrieval_address=address) as other,
    ):
        desk = Desk(writer)
        old = await desk.put("football", canary="")
        await desk.open(share=0.5)
        new = await desk.put("Finland")
        seq = writer.ledger.seq
        found = await answers(worker, seq)
        assert set(found.values()) == {(old,), (new,)}, "some are in it, and some are not"
        assert await answers(other, seq) == found
        staff = (await desk.open(share=0.5, readers=["staff"])).seq
        assert (await ask(worker, staff, "", "staff", "default")).edits == (new,)
        more = await answers(worker, (await desk.open(share=0.8)).seq)
        assert all(more[key] == (new,) for key in KEYS if found[key] == (new,))
        promoted = (await desk.end(PROMOTE)).seq
        for each in (worker, other):
            assert set((await answers(each, promoted)).values()) == {(new,)}
        reverted = pb.RevertEditsRequest(request_id=str(uuid.uuid4()), names=[new], author="eve")
        undone = (await desk.service.RevertEdits(reverted, call())).seq
        assert set((await answers(worker, undone)).values()) == {(old,)}


async def test_a_trial_that_is_rolled_back_leaves_nothing_behind(stack: Stack) -> None:
    async with (
        stack.writer(stack.lane_model(), config=OWN, limits=SNAPSHOTS) as writer,
        stack.worker() as worker,
    ):
        desk = Desk(writer)
        before = await ask(worker, 0)
        await desk.open(share=1.0)
        new = await desk.put("Finland")
        seq = writer.ledger.seq
        assert (await ask(worker, seq)).edits == (new,)
        await snapshot_after(stack, seq)
        async with stack.worker() as late:
            assert (await ask(late, seq)).edits == (new,), "it began with a snapshot"
            undone = (await desk.end(ROLL_BACK)).seq
            for each in (worker, late):
                after = await ask(each, undone)
                assert (after.edits, after.text) == ((), before.text)


@pytest.mark.promise("P7")
async def test_a_canary_outlives_snapshots_and_a_new_lane_model(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN, limits=SNAPSHOTS) as writer:
        async with stack.worker() as worker:
            desk = Desk(writer)
            old = await desk.put("football", canary="")
            opened = await desk.open(share=0.5, readers=["staff"])
            new = await desk.put("Finland")
            seq = writer.ledger.seq
            found = await answers(worker, seq)
            await snapshot_after(stack, seq)
    async with (
        stack.writer(stack.lane_model(seed=3), config=OWN, limits=SNAPSHOTS) as writer,
        stack.worker() as worker,
    ):
        desk = Desk(writer)
        (canary,) = await desk.list()
        assert (canary.opened_seq, list(canary.edits)) == (opened.seq, [new])
        assert await answers(worker, writer.ledger.seq) == found
        promoted = (await desk.end(PROMOTE)).seq
        assert set((await answers(worker, promoted)).values()) == {(new,)}
        assert (await desk.get(old)).superseded_by == new
        async with stack.worker() as late:
            assert (await ask(late, promoted)).edits == (new,)
            assert late.engine.version.state_digest == worker.engine.version.state_digest


async def test_what_workers_count_decides(stack: Stack) -> None:
    async with (
        stack.writer(stack.lane_model(), config=OWN) as writer,
        stack.worker() as worker,
    ):
        desk = Desk(writer)
        await desk.open(share=0.5)
        new = await desk.put("Finland")
        found = await answers(worker, writer.ledger.seq)
        num_in = sum(edits == (new,) for edits in found.values())
        await wait_for(writer, lambda counts: counts.canary.requests == num_in)
        rule = types_pb2.CanaryRule(
            min_requests=num_in, max_error_increase=0.5, promote_after_seconds=1
        )
        await desk.open(share=0.5, rule=rule)
        canary = await ended(writer)
        assert canary.state == pb.Canary.STATE_PROMOTED
        counted = canary.comparison
        assert (counted.canary.claims, counted.rest.requests) == (num_in, len(KEYS) - num_in)
        assert writer.ledger.get(new).state is State.COMMITTED
