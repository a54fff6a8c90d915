"""The retrieval service beside a real log, a real writer and a worker, with a RECIPE lane."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from errata.editing.model.causal_lm import CausalLM
from errata.errors import (
    BaseModelMismatchError,
    InvalidRequestError,
    LimitExceededError,
    ReplicaBehindError,
    SeqBeyondHeadError,
    SeqTrimmedError,
    StartupError,
    UnavailableError,
)
from errata.retrieval.deciding import Decision, RoutingQuery
from errata.retrieval.history import RoutingSnapshot
from errata.retrieval.replica import RetrievalReplica
from errata_client._gen.errata.v1 import retrieval_pb2, retrieval_pb2_grpc
from tests.integration.log.harness import eventually
from tests.integration.retrieval.stack import (
    FACTS,
    LANE,
    PROMPTS,
    Stack,
    answer_of,
    first_piece,
    revert,
    served,
    submit,
)
from tests.unit.editing.gates import install_gate, make_gate
from tests.unit.editing.recipe_models import make_lane_model
from tests.unit.editing.tiny_models import make_model
from tests.waiting import PATIENCE


async def _route(
    replica: RetrievalReplica, *, at_seq: int | None = None, min_seq: int | None = None
) -> tuple[RoutingSnapshot, list[Decision]]:
    query = RoutingQuery(PROMPTS)
    return await replica.route(query, at_seq=at_seq, min_seq=min_seq, timeout_seconds=PATIENCE)


def _winners(decisions: Sequence[Decision]) -> set[str]:
    return {decision.winner for decision in decisions}


async def test_a_replica_follows_edits_reverts_and_new_lane_models(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer, stack.retrieval() as replica:
        assert _winners((await _route(replica))[1]) == {""}
        first, at_first = await submit(writer, FACTS[0])
        snapshot, decisions = await _route(replica, min_seq=at_first)
        assert snapshot.seq >= at_first
        assert _winners(decisions) == set(first)
        (claim,) = decisions[0].claims.values()
        assert claim.holds
        assert claim.score > claim.threshold
        second, at_second = await submit(writer, FACTS[1], FACTS[2])
        assert _winners((await _route(replica, min_seq=at_second))[1]) <= {*first, *second}
        await revert(writer, first[0])
        reverted = await revert(writer, second[0])
        snapshot, decisions = await _route(replica, min_seq=reverted)
        assert _winners(decisions) == {second[1]}
        assert snapshot.num_edits == {LANE: 1}
        before = snapshot.state_digest
        head = writer.ledger.seq
    async with stack.writer(stack.lane_model(seed=3)) as writer, stack.retrieval() as fresh:
        assert writer.ledger.seq == head + 1, "one entry for the whole repository"
        snapshot, decisions = await _route(fresh, min_seq=head + 1)
        assert _winners(decisions) == {second[1]}
        assert snapshot.state_digest != before
        await submit(writer, FACTS[3])
    async with stack.writer(stack.lane_model(seed=3)) as writer:
        assert writer.ledger.seq == head + 3, "the same lane model is not committed again"
    async with stack.writer(None) as writer:
        assert writer.ledger.seq == head + 3, "without a folder the log's stays"


async def test_a_decision_can_be_asked_for_as_of_an_earlier_position(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer, stack.retrieval(history=6) as replica:
        first, at_first = await submit(writer, FACTS[0])
        second, at_second = await submit(writer, FACTS[1])
        at_revert = await revert(writer, first[0])
        await _route(replica, min_seq=at_revert)
        for seq, winners in (
            (at_revert, {second[0]}),
            (at_second, {first[0], second[0]}),
            (at_first, {first[0]}),
            (at_first - 1, {""}),
        ):
            snapshot, decisions = await _route(replica, at_seq=seq)
            assert snapshot.seq <= seq
            assert _winners(decisions) <= winners, seq
        for _ in range(4):
            name, _ = await submit(writer, FACTS[2])
            await revert(writer, name[0])
        await _route(replica, min_seq=writer.ledger.seq)
        with pytest.raises(SeqTrimmedError, match="request a later position"):
            await _route(replica, at_seq=at_first)


async def test_two_replicas_agree_and_one_that_restarts_finds_its_state_again(
    stack: Stack,
) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        async with stack.retrieval() as one, stack.retrieval() as other:
            _, seq = await submit(writer, *FACTS)
            first, second = [await _route(each, min_seq=seq) for each in (one, other)]
            assert first[1] == second[1]
            assert first[0].state_digest == second[0].state_digest
            assert first[0].chain_digest == second[0].chain_digest
        async with stack.retrieval() as again:
            third = await _route(again, min_seq=seq)
            assert third[1] == first[1]
            assert third[0].state_digest == first[0].state_digest


async def test_what_cannot_be_decided_is_refused_with_a_reason(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()), stack.retrieval(max_prompts=2) as replica:

        async def ask(prompts: list[str], **at: int | None) -> object:
            wanted = {"at_seq": None, "min_seq": None, **at}
            return await replica.route(RoutingQuery(prompts), timeout_seconds=0.8, **wanted)

        with pytest.raises(InvalidRequestError, match="no prompt"):
            await ask([])
        with pytest.raises(InvalidRequestError, match=r"prompts\[1\] is empty"):
            await ask(["Lyon", " "])
        with pytest.raises(LimitExceededError, match="the limit is 2"):
            await ask(["Lyon"] * 3)
        with pytest.raises(InvalidRequestError, match="not both"):
            await ask(["Lyon"], at_seq=1, min_seq=1)
        with pytest.raises((SeqBeyondHeadError, ReplicaBehindError)):
            await ask(["Lyon"], min_seq=99)


async def test_the_service_tells_edit_score_and_threshold(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer, stack.retrieval() as replica:
        _, seq = await submit(writer, *FACTS)
        async with served(replica) as address, grpc.aio.insecure_channel(address) as channel:
            stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
            long = "in Zürich " * 40 + "Toyota makes"
            request = retrieval_pb2.RouteRequest(prompts=[*PROMPTS, long], min_seq=seq)
            response = await stub.Route(request, timeout=PATIENCE)
            _, expected = await _route(replica)
            for prompt, decision in zip(response.prompts, expected, strict=False):
                assert prompt.winner == decision.winner
                (claim,) = prompt.claims
                assert claim.edit == decision.claims[LANE].edit
                # another batch is padded otherwise
                assert claim.score == pytest.approx(decision.claims[LANE].score, abs=1e-4)
                assert (claim.lane, claim.holds, claim.prompt_cut) == (LANE, True, False)
            assert response.prompts[-1].claims[0].prompt_cut
            status = await stub.GetRetrievalStatus(
                retrieval_pb2.GetRetrievalStatusRequest(), timeout=PATIENCE
            )
            assert (status.applied_seq, status.floor_seq) == (response.applied_seq, 0)
            assert [(lane.lane, lane.num_edits) for lane in status.lanes] == [(LANE, 4)]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Route(retrieval_pb2.RouteRequest(), timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_worker_answers_alike_with_and_without_the_service(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer, stack.retrieval() as replica:
        _, seq = await submit(writer, *FACTS)
        async with (
            served(replica) as address,
            stack.worker() as alone,
            stack.worker(retrieval_address=address) as asking,
        ):
            for prompt in (*PROMPTS, "Lyon is"):
                here, there = [await answer_of(each, prompt, seq) for each in (alone, asking)]
                assert here == there
                assert here[1], "an edit shaped it"
            for each in (alone, asking):
                told = [
                    (await first_piece(each, prompt, seq)).prompt_cut
                    for prompt in ("in Zürich " * 12 + "Toyota makes", "Toyota makes")
                ]
                assert told == [True, False]
            (winner,) = (await answer_of(alone, PROMPTS[0], seq))[1]
            later = await revert(writer, winner)
            here, there = [await answer_of(each, PROMPTS[0], later) for each in (alone, asking)]
            assert here == there
            assert here[1] != (winner,)


@pytest.mark.promise("P8")
async def test_a_worker_defers_where_no_edit_claims(stack: Stack) -> None:
    async with stack.worker() as before:
        unedited = [(await answer_of(before, prompt, 0))[0] for prompt in PROMPTS]
    async with stack.writer(stack.lane_model(), threshold=1.0) as writer:
        _, seq = await submit(writer, *FACTS)
        async with stack.worker() as worker:
            answers = [await answer_of(worker, prompt, seq) for prompt in PROMPTS]
            assert [text for text, _ in answers] == unedited
            assert all(edits == () for _, edits in answers)


async def test_without_the_service_requests_fail_clearly_and_others_follow(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer, stack.retrieval() as replica:
        _, seq = await submit(writer, FACTS[0])
        async with served(replica) as address:
            pass  # it is gone again
        async with stack.worker(retrieval_address=address, retrieval_timeout_seconds=0.3) as worker:
            answers = await asyncio.gather(
                *[answer_of(worker, prompt, seq) for prompt in PROMPTS], return_exceptions=True
            )
            assert all(isinstance(answer, UnavailableError) for answer in answers), answers
            worker.check_health()


async def test_a_lane_needs_a_model_that_fits(stack: Stack) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with stack.writer(None):
            pass
    assert caught.group_contains(StartupError, match="needs a lane model")
    folder = stack.folder / "foreign"
    make_lane_model(make_model("llama", seed=9)).save(folder)
    with pytest.raises(ExceptionGroup) as caught:
        async with stack.writer(folder):
            pass
    assert caught.group_contains(BaseModelMismatchError)
    async with stack.writer(stack.lane_model()) as writer:
        await eventually(lambda: writer.ledger.lane_models, "a lane model")


async def test_a_lane_that_names_no_model_commits_the_installed_gate(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane: dict[str, Any] = {"method": "lemoe", "config": {"steps": 2}}
    with pytest.raises(ExceptionGroup) as caught:
        async with stack.writer(None, **lane):
            pass
    assert caught.group_contains(StartupError, match="install the package errata-gate")
    gate = install_gate(make_gate(stack.make_llm()), stack.folder / "site", monkeypatch)
    digest = hashlib.sha256(gate.read_bytes()).hexdigest()
    async with stack.writer(None, **lane) as writer:
        await eventually(lambda: writer.ledger.lane_models, "the gate")
        assert set(writer.ledger.lane_models.values()) == {digest}
    gate.unlink()
    async with stack.writer(None, **lane) as writer:
        assert set(writer.ledger.lane_models.values()) == {digest}, "the log has it"


@pytest.mark.parametrize(
    ("method", "wrong", "problem"),
    [
        ("elder", {"layers": [1, 99]}, "layer 99 does not exist"),
        ("elder", {"rank": 4_000}, "rank 4000 is above"),
        ("lemoe", {"layer": 99}, "layer 99 does not exist"),
        ("adaple", {"layers": [99]}, "layer 99 does not exist"),
    ],
)
async def test_a_lane_that_the_model_cannot_have_never_reaches_the_log(
    stack: Stack, method: str, wrong: dict[str, Any], problem: str
) -> None:
    own = {"num_layers": 1} if method == "adaple" else {"scope": "cosine"}
    with pytest.raises(ExceptionGroup) as caught:
        async with stack.writer(None, method, config={**own, **wrong}):
            pass
    assert caught.group_contains(StartupError, match=problem)
    async with stack.writer(None, method, config=own) as writer:
        assert writer.ledger.seq == 1, "the right one, under the same name"


async def test_nor_does_one_whose_adapters_cannot_be_read(stack: Stack) -> None:
    config = {"scope": "cosine", "init": "adapters", "num_experts": 2, "top_k": 1}
    folders = (stack.folder / "a", stack.folder / "b")
    with pytest.raises(ExceptionGroup) as caught:
        async with stack.writer(None, "elder", config=config, adapters=folders):
            pass
    assert caught.group_contains(StartupError, match="no PEFT adapter that can be read")
    async with stack.writer(None, "elder", config={"scope": "cosine"}) as writer:
        assert writer.ledger.seq == 1, "another one, under the same name"


def test_the_tiny_model_is_the_same_everywhere() -> None:
    first: CausalLM = make_model("llama")
    assert first.digest == make_model("llama").digest
