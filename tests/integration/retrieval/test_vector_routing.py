"""Lanes that go by vectors of the LLM, in the retrieval service: workers send them along."""

from __future__ import annotations

import asyncio

import grpc
import pytest
import torch

from errata.editing.elder.experts import Shape
from errata.editing.elder.queries import queries_of
from errata.editing.lane.contract import LaneConfig
from errata.editing.lemoe.experts import Shape as LemoeShape
from errata.editing.lemoe.experts import new_expert
from errata.retrieval.convert import vectors_message
from errata_client._gen.errata.v1 import (
    edit_log_pb2,
    edit_log_pb2_grpc,
    retrieval_pb2,
    retrieval_pb2_grpc,
)
from tests.integration.retrieval.stack import (
    FACTS,
    LANE,
    PROMPTS,
    Stack,
    answer_of,
    served,
    submit,
)
from tests.unit.editing import lemoe_models
from tests.unit.editing.elder_models import CODES
from tests.unit.editing.tiny_models import make_model
from tests.waiting import PATIENCE

OTHERS = ["Zürich liegt in der", "Therefore it rains. You know"]


@pytest.mark.promise("P6")
@pytest.mark.parametrize(
    ("method", "lane_config"),
    [("elder", CODES), ("lemoe", lemoe_models.SMALL)],
    ids=["elder", "lemoe"],
)
async def test_a_worker_answers_alike_with_and_without_the_service(
    stack: Stack, method: str, lane_config: LaneConfig
) -> None:
    config = lane_config.model_dump(mode="json")
    async with stack.writer(None, method, config=config) as writer, stack.retrieval() as replica:
        names, seq = await submit(writer, *FACTS)
        async with (
            served(replica) as address,
            stack.worker() as alone,
            stack.worker(retrieval_address=address) as asking,
        ):
            answers = [
                await asyncio.gather(*[answer_of(worker, p, seq) for p in [*PROMPTS, *OTHERS]])
                for worker in (alone, asking)
            ]
    assert answers[0] == answers[1]
    assert [edits for _, edits in answers[0][: len(FACTS)]] == [(name,) for name in names]


async def test_a_worker_tells_the_log_which_experts_are_on_its_device(stack: Stack) -> None:
    config, llm = lemoe_models.SMALL.model_dump(mode="json"), make_model("llama")
    async with stack.writer(None, "lemoe", config=config) as writer, stack.worker() as worker:
        _, seq = await submit(writer, *FACTS)
        await _told(stack, {"experts": 0, "bytes": 0})
        await answer_of(worker, PROMPTS[0], seq)
        expert = new_expert(llm, LemoeShape.of(llm, lemoe_models.SMALL), seed=0)
        num_bytes = sum(tensor.nbytes for tensor in expert.values())
        await _told(stack, {"experts": 1, "bytes": num_bytes})


async def _told(stack: Stack, sizes: dict[str, int]) -> None:
    """Returns once the log's list of replicas says so of the worker."""
    async with asyncio.timeout(PATIENCE), grpc.aio.insecure_channel(stack.address) as channel:
        stub = edit_log_pb2_grpc.EditLogServiceStub(channel)
        while True:
            response = await stub.ListReplicas(edit_log_pb2.ListReplicasRequest())
            workers = [r for r in response.replicas if r.role == "worker"]
            if [dict(r.resident[LANE].values) for r in workers if LANE in r.resident] == [sizes]:
                return
            await asyncio.sleep(0.1)


async def test_the_service_decides_by_vectors_and_says_what_is_wrong_with_them(
    stack: Stack,
) -> None:
    config = CODES.model_dump(mode="json")
    async with stack.writer(None, "elder", config=config) as writer, stack.retrieval() as replica:
        names, seq = await submit(writer, *FACTS)
        llm = make_model("llama")
        queries = queries_of(llm, Shape.of(llm, CODES), PROMPTS)
        async with served(replica) as address, grpc.aio.insecure_channel(address) as channel:
            stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)

            def ask(vectors: torch.Tensor | None) -> retrieval_pb2.RouteRequest:
                sent = [] if vectors is None else [vectors_message(LANE, vectors)]
                return retrieval_pb2.RouteRequest(prompts=PROMPTS, vectors=sent, min_seq=seq)

            response = await stub.Route(ask(queries), timeout=PATIENCE)
            claims = [prompt.claims[0] for prompt in response.prompts]
            assert [claim.edit for claim in claims] == names
            assert all(claim.holds and claim.score == 0 for claim in claims), "distance 0"
            for wrong, told in (
                (None, "send them"),
                (queries[:, :-1], "entries"),
                (queries[:3, :5], "bytes for 4 prompts"),
                (torch.full_like(queries, torch.nan), "not finite"),
            ):
                with pytest.raises(grpc.aio.AioRpcError, match=told) as caught:
                    await stub.Route(ask(wrong), timeout=PATIENCE)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
