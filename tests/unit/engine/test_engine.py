"""Joining and leaving a running batch, its limits, and the effect of changes on its rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from transformers import GenerationConfig, MistralConfig

from errata.demo import Corpus
from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine.engine import Engine
from errata.engine.limits import EngineLimits
from errata.engine.sampling import Sampling
from errata.engine.sequence import GenerationRequest, Request, ScoringRequest
from errata.engine.serving_state import FunctionRouter, ServingState
from errata.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
)
from tests.unit.editing.tiny_models import FAMILIES, make_model
from tests.unit.engine.helpers import (
    VERSION,
    Synthetic,
    collect,
    greedy_alone,
    random_prompts,
    routed,
    running,
    text_of,
)
from tests.waiting import PATIENCE

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


async def test_text_ends_at_end_of_text_and_before_stop_texts(
    engine: Engine, shared_model: CausalLM, ids: tuple[int, ...]
) -> None:
    made = greedy_alone(shared_model, ids, 12)
    whole = shared_model.tokenizer.decode(made, skip_special_tokens=True)
    for streaming in (False, True):
        pieces = await collect(engine, GenerationRequest(ids, 12, (".",), streaming=streaming))
        assert text_of(pieces) == whole.split(".")[0]
        assert pieces[-1].finish_reason == "stop"
        assert len(pieces) == 1 or streaming
    eos = shared_model.tokenizer.eos_token_id
    ended = await collect(engine, GenerationRequest(ids, 60))
    if ended[-1].finish_reason == "stop":
        assert eos in greedy_alone(shared_model, ids, ended[-1].num_tokens + 1)


async def test_each_of_several_ends_of_text_ends_an_answer(
    shared_model: CausalLM, ids: tuple[int, ...]
) -> None:
    """Chat models name two or more in their generation config."""
    made = greedy_alone(shared_model, ids, 4)
    hf: Any = shared_model.model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf, "generation_config", GenerationConfig(eos_token_id=[1, made[3]]))
        view = CausalLM(hf, shared_model.tokenizer)
    async with running(view) as engine:
        (piece,) = await collect(engine, GenerationRequest(ids, 9))
    assert (piece.num_tokens, piece.finish_reason) == (made.index(made[3]), "stop")


async def test_an_answer_to_a_prompt_that_ends_in_a_blank_begins_after_it(
    engine: Engine, shared_model: CausalLM, ids: tuple[int, ...]
) -> None:
    plain = text_of(await collect(engine, GenerationRequest(ids, 6)))
    assert plain.startswith(" ")
    for streaming in (False, True):
        request = GenerationRequest(ids, 6, streaming=streaming, drops_blank=True)
        assert text_of(await collect(engine, request)) == plain[1:]


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


async def test_alternatives_are_the_most_likely_tokens(
    engine: Engine, shared_model: CausalLM, ids: tuple[int, ...]
) -> None:
    (piece,) = await collect(engine, GenerationRequest(ids, 2, num_alternatives=4))
    with torch.no_grad():
        log_p = shared_model.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    values, tokens = log_p.topk(4)
    first = piece.choices[0]
    assert [token for token, _ in first.alternatives] == tokens.tolist()
    assert [p for _, p in first.alternatives] == pytest.approx(values.tolist(), abs=1e-3)
    assert (first.token_id, first.log_probability) == first.alternatives[0]


async def test_a_new_request_does_not_wait_for_running_rows(
    engine: Engine, ids: tuple[int, ...]
) -> None:
    stream = engine.generate(_long(ids))
    await anext(stream)
    begun = time.monotonic()
    await collect(engine, GenerationRequest(ids, 1))
    waited = time.monotonic() - begun
    rest = [piece async for piece in stream]
    assert rest, "the long row must still be running when the new request is answered"
    assert waited < time.monotonic() - begun


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
    async with running(model, limits=limits) as engine:
        stream = engine.generate(request)
        pieces = [await anext(stream)]
        changed = asyncio.create_task(engine.change(swap, alters_weights=True))
        if weight_versions > 1:
            await changed
            assert engine.num_running == 1, "the old row must still run"
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


@pytest.mark.promise("P6")
async def test_a_routed_row_keeps_its_plan_when_the_route_changes() -> None:
    model = make_model("gpt2")
    prompt = tuple(random_prompts(model, 1, seed=1)[0])
    synthetic = Synthetic(model)
    before, after = synthetic.plan("mixture"), synthetic.plan("expert")
    request = GenerationRequest(prompt, 30, ignore_eos=True, num_alternatives=0, streaming=True)

    async def alone(plan: object) -> list[int]:
        async with running(model, routed({prompt: plan})) as engine:  # type: ignore[dict-item]
            pieces = await collect(engine, request)
        return [choice.token_id for piece in pieces for choice in piece.choices]

    async with running(model, routed({prompt: before})) as engine:
        stream = engine.generate(request)
        pieces = [await anext(stream)]
        state = routed({prompt: after}, replace(VERSION, seq=1))
        await engine.change(lambda: state, alters_weights=False)
        new = await collect(engine, request)
        pieces += [piece async for piece in stream]
    tokens = [choice.token_id for piece in pieces for choice in piece.choices]
    assert tokens == await alone(before)
    assert [c.token_id for piece in new for c in piece.choices] == await alone(after)
    assert {piece.version.seq for piece in pieces} == {0}


async def test_rows_that_outlive_their_weights_start_again_and_streams_fail(
    shared_model: CausalLM, ids: tuple[int, ...]
) -> None:
    limits = EngineLimits(max_rows=4, weight_versions=1, max_drain_seconds=0.05)
    state = ServingState(replace(VERSION, seq=1))
    async with running(shared_model, limits=limits) as engine:
        unary = asyncio.create_task(collect(engine, _long(ids, streaming=False)))
        stream = engine.generate(_long(ids))
        await anext(stream)
        await engine.change(lambda: state, alters_weights=True)
        with pytest.raises(UnavailableError, match="weights were replaced"):
            async for _ in stream:
                pass
        (piece,) = await unary
        assert (piece.version.seq, piece.num_tokens) == (1, LONG)


async def test_a_failed_change_leaves_the_serving_state(engine: Engine) -> None:
    def broken() -> ServingState:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await engine.change(broken, alters_weights=True)
    assert engine.version == VERSION


async def test_a_cancelled_row_frees_its_place_at_once(
    shared_model: CausalLM, ids: tuple[int, ...]
) -> None:
    async with running(shared_model, limits=EngineLimits(max_rows=1)) as engine:
        stream = engine.generate(_long(ids, max_tokens=200))
        await anext(stream)
        waiting = asyncio.create_task(collect(engine, GenerationRequest(ids, 1)))
        await asyncio.sleep(0)
        await stream.aclose()
        await asyncio.wait_for(waiting, PATIENCE)
        assert engine.num_running == 0
        assert engine.statistics.finished == {"length": 1}, "the long row did not finish"
        await collect(engine, _long(ids, max_tokens=2))
        assert engine.statistics.finished == {"length": 2}, "rows that finish are counted"


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


async def test_a_full_queue_refuses_requests_and_then_serves_again(
    shared_model: CausalLM, ids: tuple[int, ...]
) -> None:
    request = GenerationRequest(ids, 20, ignore_eos=True)
    async with running(shared_model, limits=EngineLimits(max_rows=2, max_queue=8)) as engine:
        results = await asyncio.gather(
            *[collect(engine, request) for _ in range(40)], return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, QueueFullError)]
        served = [result for result in results if isinstance(result, list)]
        assert refused
        assert served
        assert len(refused) + len(served) == 40
        assert 1 <= int(refused[0].metadata["retry_after_seconds"]) <= 30
        assert await collect(engine, request)


async def test_pieces_that_a_slow_reader_has_not_read_are_joined(
    engine: Engine, ids: tuple[int, ...]
) -> None:
    request = _long(ids, max_tokens=40, num_alternatives=0)
    quick = await collect(engine, request)
    stream = engine.generate(request)
    slow = [await anext(stream)]
    while engine.num_running:
        await asyncio.sleep(0.01)
    slow += [piece async for piece in stream]
    assert len(slow) <= 3 < len(quick)
    assert text_of(slow) == text_of(quick)
    assert [c for p in slow for c in p.choices] == [c for p in quick for c in p.choices]


async def test_a_request_that_cannot_fit_the_model_is_refused(
    engine: Engine, shared_model: CausalLM
) -> None:
    with pytest.raises(InvalidRequestError, match="tokens; the limit is"):
        await collect(engine, GenerationRequest((1,) * 8, shared_model.max_positions))
    limits = EngineLimits(max_context=20)
    async with running(shared_model, limits=limits) as small:
        with pytest.raises(InvalidRequestError, match="limit is 20"):
            await collect(small, GenerationRequest((1,) * 15, 6))
        assert await collect(small, GenerationRequest((1,) * 15, 5))


async def test_a_prefix_that_leaves_no_room_is_refused() -> None:
    model = make_model("llama")
    plan = Synthetic(model).plan("prefix")
    full = (3,) * (model.max_positions - 1)
    async with running(model, routed({full: plan})) as engine:
        with pytest.raises(InvalidRequestError, match="adds 4 positions to the prompt"):
            await collect(engine, GenerationRequest(full, 1))
        assert await collect(engine, GenerationRequest((3,), 1))


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


async def test_a_prompt_that_cannot_be_routed_fails_alone(shared_model: CausalLM) -> None:
    def route(requests: Sequence[Request]) -> list[RowPlan]:
        if any(request.prompt_ids == (13,) for request in requests):
            raise ValueError("no route")
        return [BASE for _ in requests]

    async with running(shared_model, ServingState(VERSION, router=FunctionRouter(route))) as engine:
        results = await asyncio.gather(
            *[collect(engine, GenerationRequest((n,), 2)) for n in (12, 13, 14)],
            return_exceptions=True,
        )
    assert isinstance(results[1], ValueError)
    assert isinstance(results[0], list)
    assert isinstance(results[2], list)


async def test_scores_equal_those_of_a_plain_forward_pass(
    engine: Engine, shared_model: CausalLM, corpus: Corpus
) -> None:
    edits = corpus.demo_edits()[:4]
    rows = [tokenise(shared_model, edit.prompt, edit.target) for edit in edits]
    requests = [
        ScoringRequest(row.ids[: -row.num_target], row.ids[-row.num_target :]) for row in rows
    ]
    scored = await asyncio.gather(*[engine.score(request) for request in requests])
    for request, result in zip(requests, scored, strict=True):
        every = [*request.prompt_ids, *request.continuation_ids]
        with torch.no_grad():
            log_p = shared_model.model(input_ids=torch.tensor([every])).logits[0].log_softmax(-1)
        start = len(request.prompt_ids) - 1
        for index, token in enumerate(request.continuation_ids):
            assert result.log_probabilities[index] == pytest.approx(
                float(log_p[start + index, token]), abs=1e-3
            )
            assert result.argmax_ids[index] == int(log_p[start + index].argmax())


async def test_a_seed_gives_the_same_text_in_any_batch(
    engine: Engine, ids: tuple[int, ...]
) -> None:
    def request(seed: int) -> GenerationRequest:
        sampling = Sampling(temperature=1.5, top_k=50, top_p=0.95, seed=seed)
        return GenerationRequest(ids, 20, sampling=sampling, ignore_eos=True)

    alone = text_of(await collect(engine, request(7)))
    others = [request(seed) for seed in (1, 7, 2**63 + 5)]
    mixed = await asyncio.gather(*[collect(engine, r) for r in [*others, _long(ids)]])
    texts = [text_of(pieces) for pieces in mixed]
    assert texts[1] == alone
    assert len(set(texts)) == 4, "other seeds, other texts"


async def test_a_closed_engine_refuses_requests(
    shared_model: CausalLM, ids: tuple[int, ...]
) -> None:
    async with running(shared_model) as engine:
        stream = engine.generate(_long(ids))
        await anext(stream)
        await asyncio.to_thread(engine.close)
        with pytest.raises(UnavailableError, match="shutting down"):
            async for _ in stream:
                pass
        with pytest.raises(UnavailableError):
            await collect(engine, GenerationRequest(ids, 2))
