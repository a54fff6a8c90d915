"""Namespaces on a real log: writer, retrieval replica and worker keep them apart."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest

from errata.engine.sequence import Piece
from errata.errors import (
    InvalidEditError,
    InvalidRequestError,
    LimitExceededError,
    PreconditionError,
    RequestIdReusedError,
)
from errata.retrieval.deciding import RoutingQuery
from errata.worker.admission import GenerationInput, ScoringInput
from errata.worker.replica import Replica
from errata.writer.compaction import CompactionOptions
from errata.writer.conflicts import Kind
from errata.writer.intake import Draft
from errata.writer.writer import Writer
from errata_client._gen.errata.v1 import retrieval_pb2, retrieval_pb2_grpc
from tests.integration.retrieval.stack import LANE, PROMPTS, Stack, revert, served
from tests.integration.retrieval.test_compaction import CONFIGS
from tests.integration.retrieval.test_snapshots import ADAPLE, METHODS, SNAPSHOTS, snapshot_after
from tests.waiting import PATIENCE

PROMPT, ANSWERS = PROMPTS[2], ("football", "Finland", "Pisa")
OWN = {"claim": "sentinel", "refine_steps": 0}
"""A RECIPE lane whose edits claim their own prompts, whatever a random sentinel decides."""


async def put(writer: Writer, namespace: str, target: str, prompt: str = PROMPT) -> tuple[str, int]:
    """Submits an edit; its name, and the position from which on it is in force."""
    draft = Draft(prompt, target, "", (), (), "", namespace=namespace)
    _, (record,) = await writer.submit(str(uuid.uuid4()), [draft], LANE, "test")
    name = record.edit.name
    await writer.ledger.wait_until(lambda: writer.ledger.get(name).state.settled)
    settled = writer.ledger.get(name)
    assert settled.commit_seq, settled.error
    return name, settled.commit_seq


async def asked(worker: Replica, min_seq: int, *namespaces: str, prompt: str = PROMPT) -> Piece:
    request = GenerationInput(prompt, max_tokens=4, min_seq=min_seq, namespaces=namespaces)
    pieces = worker.generate(request, streaming=False, timeout_seconds=PATIENCE)
    return await anext(pieces)


def config_of(method: str) -> tuple[str, dict[str, Any] | None]:
    """A lane in which namespaces do not share what they learn."""
    name, config = METHODS[method]
    if method == "recipe":
        return name, OWN
    return name, {**(config or {}), **({"bank_edits": 4} if method == "elder" else {})}


@pytest.mark.promise("P8")
@pytest.mark.parametrize("method", ["recipe", "elder", "lemoe"])
async def test_each_namespace_has_its_own_answer_and_nobody_elses(
    stack: Stack, method: str
) -> None:
    name, config = config_of(method)
    model = stack.lane_model() if method == "recipe" else None
    async with (
        stack.writer(model, name, config=config) as writer,
        stack.retrieval() as replica,
        served(replica) as address,
        stack.worker(retrieval_address=address) as worker,
        stack.worker() as other,
    ):
        base = await asked(worker, 0)
        a, _ = await put(writer, "team-a", ANSWERS[0])
        b, _ = await put(writer, "team-b", ANSWERS[1])
        own, seq = await put(writer, "", ANSWERS[2])
        expected: list[tuple[Sequence[str], str]] = [
            (["team-a"], a),
            (["team-b"], b),
            ([], own),
            (["default"], own),
            (["team-a", "default"], own),  # the newest of those that it reads
            (["*"], own),
            (["team-b", "team-a"], b),
            (["nobody"], ""),
        ]
        # All at once, so that one batch has all of these readings.
        for one in (worker, other):
            pieces = await asyncio.gather(*(asked(one, seq, *read) for read, _ in expected))
            for piece, (read, edit) in zip(pieces, expected, strict=True):
                assert piece.edits == ((edit,) if edit else ()), (read, one.name)
            assert pieces[-1].text == base.text, "who reads none of them gets the base model"
        undone = await revert(writer, own)
        assert (await asked(worker, undone)).edits == ()
        assert (await asked(worker, undone, "team-a")).edits == (a,)
        scored = ScoringInput(PROMPT, ANSWERS[0], min_seq=undone, namespaces=["team-a"])
        _, found = await worker.score(scored, timeout_seconds=PATIENCE)
        assert found.edits == (a,)


async def test_supersession_conflicts_and_previews_stay_in_a_namespace(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        ledger = writer.ledger
        a, _ = await put(writer, "team-a", ANSWERS[0])
        b, _ = await put(writer, "team-b", ANSWERS[1])
        newer, _ = await put(writer, "team-a", ANSWERS[2])
        assert ledger.superseded_by(ledger.get(a)) == newer
        assert not ledger.superseded_by(ledger.get(b))
        draft = Draft(PROMPT, "blue", "", (), (), "", namespace="team-b")
        _, (preview,) = await writer.preview([draft], LANE, PATIENCE)
        assert [(each.kind, each.name) for each in preview.conflicts] == [(Kind.SUPERSEDES, b)]
        assert preview.answers[0].changed
        elsewhere = Draft(PROMPT, "blue", "", (), (), "", namespace="team-c")
        _, (preview,) = await writer.preview([elsewhere], LANE, PATIENCE)
        assert not preview.conflicts, "nobody has corrected this there"


async def test_a_request_can_have_one_prompt_in_two_namespaces(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        request_id = str(uuid.uuid4())
        drafts = [
            Draft(PROMPT, target, "", (), (), "", namespace=namespace)
            for namespace, target in (("team-a", "football"), ("", "Pisa"), ("team-b", "Finland"))
        ]
        seq, records = await writer.submit(request_id, drafts, LANE, "test")
        await writer.ledger.wait_until(
            lambda: all(record.state.settled for record in writer.ledger.of_request(seq))
        )
        committed = {record.commit_seq for record in writer.ledger.of_request(seq)}
        assert len(committed) == 3, "a batch has the edits of one namespace"
        assert [record.edit.namespace for record in records] == ["team-a", "", "team-b"]
        assert (await writer.submit(request_id, drafts, LANE, "test"))[0] == seq, "a retry"
        others = [replace(drafts[0], namespace="team-c"), *drafts[1:]]
        with pytest.raises(RequestIdReusedError):
            await writer.submit(request_id, others, LANE, "test")
        same = [Draft(PROMPT, t, "", (), (), "", namespace="n") for t in ("a", "b")]
        with pytest.raises(InvalidEditError, match="different targets"):
            await writer.submit(str(uuid.uuid4()), same, LANE, "test")


async def test_a_lane_that_changes_weights_says_which_lanes_take_namespaces(stack: Stack) -> None:
    draft = Draft(PROMPT, "football", "", (), (), "", namespace="team-a")
    async with stack.writer(None, "adaple", config=ADAPLE) as writer:
        with pytest.raises(InvalidEditError, match="configure a lane that routes") as caught:
            await writer.submit(str(uuid.uuid4()), [draft], LANE, "test")
        assert caught.value.field == "edits[0].namespace"
        with pytest.raises(InvalidEditError, match="changes weights that every request reads"):
            await writer.preview([draft], LANE, PATIENCE)
        assert not list(writer.ledger.records())


@pytest.mark.parametrize("name", ["Team", "a b", "*", "x" * 64])
async def test_an_impossible_namespace_is_refused(stack: Stack, name: str) -> None:
    async with stack.writer(stack.lane_model()) as writer, stack.worker() as worker:
        draft = Draft(PROMPT, "football", "", (), (), "", namespace=name)
        with pytest.raises(InvalidEditError, match="no name of a namespace") as caught:
            await writer.submit(str(uuid.uuid4()), [draft], LANE, "test")
        assert caught.value.field == "edits[0].namespace"
        if name != "*":
            with pytest.raises(InvalidRequestError, match="no name of a namespace"):
                await asked(worker, 0, name)
        with pytest.raises(LimitExceededError, match="the limit is 16"):
            await asked(worker, 0, *(f"n{number}" for number in range(17)))


async def test_the_service_refuses_readings_that_do_not_match(stack: Stack) -> None:
    async with (
        stack.writer(stack.lane_model(), config=OWN) as writer,
        stack.retrieval() as replica,
        served(replica) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        name, seq = await put(writer, "team-a", ANSWERS[0])
        stub: Any = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        reading = retrieval_pb2.Reading(namespaces=["team-a"])
        request = retrieval_pb2.RouteRequest(prompts=[PROMPT] * 2, min_seq=seq, readings=[reading])
        with pytest.raises(grpc.aio.AioRpcError, match="1 readings for 2 prompts"):
            await stub.Route(request)
        request.readings.append(retrieval_pb2.Reading())
        found = await stub.Route(request)
        assert [prompt.winner for prompt in found.prompts] == [name, ""]
        query = RoutingQuery([PROMPT])
        _, (unread,) = await replica.route(
            query, at_seq=None, min_seq=seq, timeout_seconds=PATIENCE
        )
        assert not unread.winner, "no reading is the default namespace"
        assert name not in {claim.edit for claim in unread.claims.values()}, "nor named"


@pytest.mark.promise("P7")
async def test_namespaces_survive_snapshots(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN, limits=SNAPSHOTS) as writer:
        async with stack.worker() as worker:
            a, _ = await put(writer, "team-a", ANSWERS[0])
            b, seq = await put(writer, "team-b", ANSWERS[1])
            await snapshot_after(stack, seq)
            digest = worker.engine.version.state_digest
    async with (
        stack.writer(stack.lane_model(), config=OWN, limits=SNAPSHOTS) as writer,
        stack.worker() as worker,
    ):
        assert worker.engine.version.state_digest == digest
        assert (await asked(worker, seq, "team-a")).edits == (a,)
        assert (await asked(worker, seq, "team-b")).edits == (b,)
        assert (await asked(worker, seq)).edits == ()
        assert writer.ledger.get(a).edit.namespace == "team-a"
        newer, _ = await put(writer, "team-a", ANSWERS[2])
        assert writer.ledger.superseded_by(writer.ledger.get(a)) == newer


async def test_a_new_lane_model_keeps_namespaces(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        a, _ = await put(writer, "team-a", ANSWERS[0])
        own, _ = await put(writer, "", ANSWERS[1])
    async with (
        stack.writer(stack.lane_model(seed=3), config=OWN) as writer,
        stack.worker() as worker,
    ):
        seq = writer.ledger.seq
        assert (await asked(worker, seq, "team-a")).edits == (a,)
        assert (await asked(worker, seq)).edits == (own,)


async def test_a_lane_of_several_namespaces_is_not_compacted(stack: Stack) -> None:
    async with stack.writer(None, "lemoe", config=CONFIGS["lemoe"]) as writer:
        await put(writer, "team-a", ANSWERS[0])
        await put(writer, "team-b", ANSWERS[1], PROMPTS[3])
        order = CompactionOptions(0, 1.0)
        with pytest.raises(PreconditionError, match="2 namespaces"):
            await writer.compact(str(uuid.uuid4()), LANE, order, "test", PATIENCE)
