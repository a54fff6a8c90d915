"""Routing of waiting requests: in batches, and only under the version that they report."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.model.causal_lm import CausalLM
from errata.engine.job import Job
from errata.engine.limits import EngineLimits
from errata.engine.routing import route_jobs
from errata.engine.sequence import GenerationRequest, Request
from errata.engine.serving_state import FunctionRouter, RequestRouter, ServingState
from errata.errors import InvalidRequestError
from tests.unit.editing.tiny_models import make_model
from tests.unit.engine.helpers import VERSION, collect, random_prompts, running

NAMED = RowPlan(edits=("edits/1-0",))


class Recorder(RequestRouter):
    """A router that records the size of each batch."""

    def __init__(self, plan: RowPlan = BASE) -> None:
        self.calls: list[int] = []
        self._plan = plan

    def before_prefill(self, requests: Sequence[Request], *, single_pass: bool) -> list[RowPlan]:
        self.calls.append(len(requests))
        return [self._plan] * len(requests)


def _requests(model: CausalLM, count: int) -> list[GenerationRequest]:
    return [
        GenerationRequest(tuple(ids), 3, ignore_eos=True)
        for ids in random_prompts(model, count, seed=1)
    ]


async def _jobs(count: int) -> list[Job]:
    loop = asyncio.get_running_loop()
    return [Job(GenerationRequest((1, n + 1), 2), loop) for n in range(count)]


async def test_waiting_requests_are_routed_with_admitted_ones() -> None:
    recorder = Recorder()
    state = ServingState(VERSION, router=recorder)
    jobs = await _jobs(50)
    assert len(route_jobs(state, jobs[:2], jobs[2:], 64)) == 2
    assert recorder.calls == [32], "one batch of the retriever"
    assert len(route_jobs(state, jobs[2:32], jobs[32:], 64)) == 30
    assert recorder.calls == [32], "no request twice"
    route_jobs(state, jobs[32:33], jobs[33:], 64)
    assert recorder.calls == [32, 18]


@pytest.mark.promise("P6")
async def test_a_decision_under_another_version_is_made_again() -> None:
    old, new = Recorder(), Recorder(NAMED)
    jobs = await _jobs(3)
    route_jobs(ServingState(VERSION, router=old), jobs[:1], jobs[1:], 64)
    later = ServingState(replace(VERSION, seq=VERSION.seq + 1), router=new)
    assert route_jobs(later, jobs[1:], [], 64) == [NAMED] * 2
    assert (old.calls, new.calls) == ([3], [2])


async def test_a_request_that_broke_a_pass_is_routed_alone() -> None:
    recorder = Recorder()
    jobs = await _jobs(4)
    jobs[0].runs_alone = jobs[2].runs_alone = True
    state = ServingState(VERSION, router=recorder)
    route_jobs(state, jobs[:1], jobs[1:], 64)
    assert recorder.calls == [1], "no other request can make it fail"
    route_jobs(state, jobs[1:2], jobs[2:], 64)
    assert recorder.calls == [1, 2], "and it is not routed with others"


async def test_an_engine_with_a_queue_routes_in_large_batches() -> None:
    model, recorder = make_model("llama"), Recorder()
    requests = _requests(model, 24)
    limits = EngineLimits(max_rows=2, max_queue=64, prefill_tokens=16)
    async with running(model, ServingState(VERSION, router=recorder), limits) as engine:
        await asyncio.gather(*(collect(engine, request) for request in requests))
    assert sum(recorder.calls) == 24
    assert len(recorder.calls) < 8


async def test_a_prompt_that_breaks_the_router_fails_alone() -> None:
    model = make_model("llama")
    requests = _requests(model, 8)
    bad = requests[3].prompt_ids

    def route(asked: Sequence[Request]) -> list[RowPlan]:
        if any(request.prompt_ids == bad for request in asked):
            raise InvalidRequestError("unreadable.", field="prompt")
        return [BASE] * len(asked)

    limits = EngineLimits(max_rows=2, max_queue=64, prefill_tokens=16)
    async with running(
        model, ServingState(VERSION, router=FunctionRouter(route)), limits
    ) as engine:
        found = await asyncio.gather(
            *(collect(engine, request) for request in requests), return_exceptions=True
        )
    assert [isinstance(item, InvalidRequestError) for item in found] == [
        number == 3 for number in range(8)
    ]
