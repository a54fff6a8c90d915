"""Joining and leaving a running batch, its limits, and the effect of changes on its rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import torch
from structlog.testing import capture_logs
from transformers import MistralConfig

from errata.demo import Corpus
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine.engine import Engine
from errata.engine.limits import EngineLimits
from errata.engine.sequence import GenerationRequest, ScoringRequest
from errata.engine.serving_state import ServingState
from errata.errors import (
    DeadlineExceededError,
)
from tests.unit.editing.tiny_models import FAMILIES, make_model
from tests.unit.engine.helpers import (
    VERSION,
    collect,
    greedy_alone,
    random_prompts,
    running,
    text_of,
)

LONG = 120


@pytest.fixture
async def engine(shared_model: CausalLM) -> AsyncIterator[Engine]:
    async with running(shared_model) as engine:
        yield engine


@pytest.fixture
def ids(shared_model: CausalLM, corpus: Corpus) -> tuple[int, ...]:
    return tokenise(shared_model, corpus.demo_edits()[0].prompt).ids


def _long(ids: tuple[int, ...], **fields: object) -> GenerationRequest:
    request = GenerationRequest(ids, LONG, ignore_eos=True, streaming=True)
    return replace(request, **fields)  # type: ignore[arg-type] # a test's own fields


@pytest.mark.parametrize("family", FAMILIES)
async def test_requests_that_join_and_leave_get_their_own_greedy_tokens(family: str) -> None:
    """More requests than rows, of many lengths: rows leave, and others take their places."""
    model = make_model(family)
    prompts = random_prompts(model, 17, seed=4)
    limits = EngineLimits(max_rows=5, max_queue=64, prefill_tokens=40)
    async with running(model, limits=limits) as engine:
        requests = [
            GenerationRequest(tuple(p), 1 + 5 * i % 23, ignore_eos=True, num_alternatives=0)
            for i, p in enumerate(prompts)
        ]
        answers = await asyncio.gather(*[collect(engine, request) for request in requests])
    for request, pieces in zip(requests, answers, strict=True):
        expected = greedy_alone(model, request.prompt_ids, request.max_tokens)
        assert [choice.token_id for choice in pieces[-1].choices] == expected
        assert pieces[-1].finish_reason == "length"
        assert pieces[-1].num_tokens == request.max_tokens


async def test_a_sliding_window_is_respected() -> None:
    model = make_model("mistral")
    config = MistralConfig(**{**model.model.config.to_dict(), "sliding_window": 6})
    torch.manual_seed(0)
    windowed = CausalLM(type(model.model)(config), model.tokenizer)
    windowed.model.load_state_dict(model.model.state_dict())
    prompts = random_prompts(model, 3, seed=2, longest=20)
    async with running(windowed) as engine:
        answers = await asyncio.gather(
            *[
                collect(engine, GenerationRequest(tuple(p), 9, ignore_eos=True, num_alternatives=0))
                for p in prompts
            ]
        )
    expected = [greedy_alone(windowed, p, 9) for p in prompts]
    assert [[c.token_id for c in pieces[-1].choices] for pieces in answers] == expected
    assert expected != [greedy_alone(model, p, 9) for p in prompts], "control"


async def test_the_log_of_a_failed_pass_says_where_and_not_which_tokens(
    engine: Engine,
) -> None:
    """Token ids are prompts; a traceback with local variables would show them."""
    with capture_logs() as logs, pytest.raises(IndexError):
        await collect(engine, GenerationRequest((987_654,), 2))
    failed = [entry for entry in logs if entry["event"] == "a pass failed"]
    assert failed
    assert "runner.py" in failed[0]["exception"]
    assert "exc_info" not in failed[0]
    assert "987" not in str(failed)


@pytest.mark.promise("P6")
@pytest.mark.parametrize("weight_versions", [1, 2, 3])
async def test_an_answer_has_one_version_and_one_set_of_weights(
    weight_versions: int, corpus: Corpus
) -> None:
    """Rows that started under the old weights finish under them; new requests get the new ones."""
    model = make_model("llama")
    prompt = tuple(random_prompts(model, 1, seed=1)[0])
    new = [2.0 * model.down_weight(layer) for layer in range(model.num_layers)]
    old_tokens = greedy_alone(model, prompt, 40)
    request = GenerationRequest(prompt, 40, ignore_eos=True, num_alternatives=0, streaming=True)

    def swap() -> ServingState:
        for layer, weight in enumerate(new):
            model.set_down_weight(layer, weight)
        return ServingState(replace(VERSION, seq=1))

    limits = EngineLimits(max_rows=4, weight_versions=weight_versions)
    # Else a fast machine finishes the old row before anybody can look at it.
    slow = model.body.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    async with running(model, limits=limits) as engine:
        stream = engine.generate(request)
        pieces = [await anext(stream)]
        changed = asyncio.create_task(engine.change(swap, alters_weights=True))
        if weight_versions > 1:
            await changed
            assert engine.num_running == 1, "the old row must still run"
        slow.remove()
        later = asyncio.create_task(collect(engine, request))
        pieces += [piece async for piece in stream]
        new_pieces = await later
        await changed
    assert {piece.version.seq for piece in pieces} == {0}
    assert {piece.version.seq for piece in new_pieces} == {1}
    tokens = [choice.token_id for piece in pieces for choice in piece.choices]
    assert tokens == old_tokens
    new_tokens = [choice.token_id for piece in new_pieces for choice in piece.choices]
    assert new_tokens == greedy_alone(model, prompt, 40)
    assert new_tokens != old_tokens, "control: the change must be seen"


async def test_a_deadline_is_kept_in_the_queue_and_in_the_batch(
    shared_model: CausalLM, ids: tuple[int, ...]
) -> None:
    # No machine makes 230 tokens before the deadline if each of them takes 10 ms.
    slow = shared_model.body.register_forward_pre_hook(lambda *_: time.sleep(0.01))
    async with running(shared_model, limits=EngineLimits(max_rows=1)) as engine:
        soon = time.monotonic() + 0.5
        running_row = asyncio.create_task(
            collect(engine, _long(ids, max_tokens=230, deadline=soon))
        )
        await asyncio.sleep(0.02)
        queued = asyncio.create_task(
            collect(engine, GenerationRequest(ids, 2, deadline=time.monotonic() + 0.05))
        )
        try:
            for task in (queued, running_row):
                with pytest.raises(DeadlineExceededError):
                    await task
        finally:
            slow.remove()
        assert await collect(engine, GenerationRequest(ids, 2))


async def test_no_row_steps_past_the_longest_sequence_because_of_another() -> None:
    """GPT-2 has no position after its last one."""
    model = make_model("gpt2")
    long = GenerationRequest((5,) * (model.max_positions - 1), 1, ignore_eos=True)
    short = GenerationRequest((7,), model.max_positions - 1, ignore_eos=True)
    async with running(model) as engine:
        answers = await asyncio.gather(*[collect(engine, r) for r in (long, short, long)])
    assert [pieces[-1].num_tokens for pieces in answers] == [1, model.max_positions - 1, 1]


async def test_a_request_that_breaks_a_pass_fails_alone(
    engine: Engine, shared_model: CausalLM, ids: tuple[int, ...]
) -> None:
    """The other requests of the prefill and the running rows are not affected."""
    stream = engine.generate(_long(ids, max_tokens=30))
    before = [await anext(stream)]
    bad = GenerationRequest((10**6,), 2)  # no such token
    good = GenerationRequest(ids, 3, ignore_eos=True, num_alternatives=0)
    results = await asyncio.gather(
        *[collect(engine, request) for request in (good, bad, good)], return_exceptions=True
    )
    assert isinstance(results[1], IndexError)
    expected = greedy_alone(shared_model, ids, 3)
    for result in (results[0], results[2]):
        assert isinstance(result, list)
        assert [choice.token_id for choice in result[-1].choices] == expected
    rest = [piece async for piece in stream]
    undisturbed = greedy_alone(shared_model, ids, 30)
    whole = shared_model.tokenizer.decode(undisturbed, skip_special_tokens=True)
    assert text_of([*before, *rest]) == whole
    with pytest.raises(IndexError):
        await engine.score(ScoringRequest((10**6,), (1,)))
