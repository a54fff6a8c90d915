"""What every engine promises: answers, scores, limits, and one state from first to last token."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from errata.demo import Corpus
from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine.contract import ServingEngine
from errata.engine.limits import EngineLimits
from errata.engine.sampling import Sampling
from errata.engine.sequence import GenerationRequest, Piece, Request, ScoringRequest
from errata.engine.serving_state import FunctionRouter, ServingState
from errata.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
)
from tests.engines.contract.harness import Harness
from tests.unit.engine.helpers import (
    KINDS,
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

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = 120
TOLERANCE = 1e-3  # engines add in another order


@pytest.fixture
def ids(model: CausalLM, corpus: Corpus) -> tuple[int, ...]:
    return tokenise(model, corpus.demo_edits()[0].prompt).ids


def _long(ids: tuple[int, ...], **fields: object) -> GenerationRequest:
    request = GenerationRequest(ids, LONG, ignore_eos=True, streaming=True)
    return replace(request, **fields)  # type: ignore[arg-type] # a test's own fields


def _tokens(pieces: Sequence[Piece]) -> list[int]:
    return [choice.token_id for piece in pieces for choice in piece.choices]


def _log_probabilities(pieces: Sequence[Piece]) -> list[float]:
    return [choice.log_probability for piece in pieces for choice in piece.choices]


async def test_requests_that_join_and_leave_get_their_own_greedy_tokens(
    harness: Harness, model: CausalLM
) -> None:
    """More requests than rows, of many lengths: rows leave, and others take their places."""
    prompts = random_prompts(model, 17, seed=4)
    requests = [
        GenerationRequest(tuple(p), 1 + 5 * i % 23, ignore_eos=True, num_alternatives=0)
        for i, p in enumerate(prompts)
    ]
    async with harness.running(model, limits=EngineLimits(max_rows=5, max_queue=64)) as engine:
        answers = await asyncio.gather(*[collect(engine, request) for request in requests])
        assert engine.statistics.finished == {"length": len(requests)}
        assert engine.statistics.generated_tokens == sum(r.max_tokens for r in requests)
    for request, pieces in zip(requests, answers, strict=True):
        assert _tokens(pieces) == greedy_alone(model, request.prompt_ids, request.max_tokens)
        assert pieces[-1].finish_reason == "length"
        assert pieces[-1].num_tokens == request.max_tokens
        assert pieces[-1].num_prompt_tokens == len(request.prompt_ids)


@pytest.mark.promise("P6")
async def test_an_answer_has_one_version_and_one_set_of_weights(
    harness: Harness, model: CausalLM
) -> None:
    """Rows that started under the old weights finish under them; new requests get the new ones."""
    prompts = [tuple(prompt) for prompt in random_prompts(model, 4, seed=1)]
    requests = [
        GenerationRequest(p, LONG, ignore_eos=True, num_alternatives=0, streaming=True)
        for p in prompts
    ]
    new = [2.0 * model.down_weight(layer) for layer in range(model.num_layers)]
    old_tokens = [greedy_alone(model, prompt, LONG) for prompt in prompts]

    def swap() -> ServingState:
        for layer, weight in enumerate(new):
            model.set_down_weight(layer, weight)
        return ServingState(replace(VERSION, seq=1))

    async with harness.running(model) as engine:
        early = [engine.generate(request) for request in requests]
        # Else the change may come before the last of them has a row.
        begun = await asyncio.gather(*[anext(stream) for stream in early])
        changed = asyncio.create_task(engine.change(swap, alters_weights=True))
        await asyncio.sleep(0)
        late = [asyncio.create_task(collect(engine, request)) for request in requests]
        rest = [[piece async for piece in stream] for stream in early]
        after = await asyncio.gather(*late)
        await changed
        assert engine.version.seq == 1
    new_tokens = [greedy_alone(model, prompt, LONG) for prompt in prompts]
    assert all(new != old for new, old in zip(new_tokens, old_tokens, strict=True)), "control"
    before = [[first, *others] for first, others in zip(begun, rest, strict=True)]
    for pieces, old, new_ in zip((*before, *after), old_tokens * 2, new_tokens * 2, strict=True):
        (seq,) = {piece.version.seq for piece in pieces}
        assert _tokens(pieces) == (old, new_)[seq]
    assert {pieces[0].version.seq for pieces in before} == {0}
    assert 1 in {pieces[0].version.seq for pieces in after}, "the change must be seen"


@pytest.mark.promise("P6", "P12")
async def test_rows_of_every_kind_in_one_batch_get_the_answers_that_they_get_alone(
    harness: Harness, model: CausalLM
) -> None:
    """The reference is the embedded engine, which reads each request alone."""
    synthetic, rng = Synthetic(model, 3), random.Random(3)
    prompts = [tuple(prompt) for prompt in random_prompts(model, 16, seed=3)]
    plans = {p: synthetic.plan(KINDS[n % len(KINDS)]) for n, p in enumerate(prompts)}
    requests = [
        GenerationRequest(p, rng.randint(4, 12), num_alternatives=3, ignore_eos=True)
        for p in prompts
    ]
    async with harness.running(model, routed(plans)) as engine:
        together = await asyncio.gather(*[collect(engine, request) for request in requests])
        again = await asyncio.gather(*[collect(engine, request) for request in requests])
    async with running(model, routed(plans)) as reference:
        alone = [await collect(reference, request) for request in requests]
    async with running(model) as plain:
        unedited = [await collect(plain, request) for request in requests]
    for mixed, repeated, single, base, prompt in zip(
        together, again, alone, unedited, prompts, strict=True
    ):
        assert _tokens(mixed) == _tokens(repeated) == _tokens(single)
        assert _log_probabilities(mixed) == pytest.approx(_log_probabilities(single), abs=TOLERANCE)
        assert mixed[-1].edits == plans[prompt].edits
        differs = abs(_log_probabilities(mixed)[0] - _log_probabilities(base)[0])
        assert (plans[prompt] is BASE) == (differs < 10 * TOLERANCE), "control: plans must matter"


async def test_a_prefix_stands_inside_a_prompt(harness: Harness, model: CausalLM) -> None:
    """In a conversation it comes right before what the user says."""
    prompt = tuple(random_prompts(model, 1, seed=8, longest=12)[0]) * 2
    plan = Synthetic(model, 5).plan("prefix").behind(7)
    request = GenerationRequest(prompt, 8, num_alternatives=0, ignore_eos=True)
    async with running(model, routed({prompt: plan})) as reference:
        expected = await collect(reference, request)
    async with harness.running(model, routed({prompt: plan})) as engine:
        found = await collect(engine, request)
        scored = await engine.score(ScoringRequest(prompt, tuple(_tokens(expected))))
    assert _tokens(found) == _tokens(expected)
    wanted = _log_probabilities(expected)
    assert list(scored.log_probabilities) == pytest.approx(wanted, abs=TOLERANCE)
    assert scored.argmax_ids == tuple(_tokens(expected))
    assert scored.edits == plan.edits


async def test_a_deadline_is_kept_in_the_queue_and_in_the_batch(
    harness: Harness, model: CausalLM, ids: tuple[int, ...]
) -> None:
    """No machine makes 400 tokens in 20 ms."""
    async with harness.running(model, limits=EngineLimits(max_rows=1)) as engine:
        soon = time.monotonic() + 0.02
        late = [
            asyncio.create_task(collect(engine, _long(ids, max_tokens=400, deadline=soon)))
            for _ in range(3)
        ]
        for task in late:
            with pytest.raises(DeadlineExceededError):
                await task
        assert await collect(engine, GenerationRequest(ids, 2))


async def test_text_ends_before_stop_texts(
    engine: ServingEngine, model: CausalLM, ids: tuple[int, ...]
) -> None:
    whole = model.tokenizer.decode(greedy_alone(model, ids, 12), skip_special_tokens=True)
    stop = whole[len(whole) // 2 :][:3]
    for streaming in (False, True):
        request = GenerationRequest(ids, 12, (stop,), streaming=streaming, ignore_eos=True)
        pieces = await collect(engine, request)
        assert text_of(pieces) == whole.split(stop)[0]
        assert pieces[-1].finish_reason == "stop"
        assert len(pieces) == 1 or streaming


async def test_each_of_several_ends_of_text_ends_an_answer(
    harness: Harness, model: CausalLM, ids: tuple[int, ...]
) -> None:
    """Chat models name two or more in their generation config."""
    made = greedy_alone(model, ids, 4)
    hf: Any = model.model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf, "generation_config", GenerationConfig(eos_token_id=[1, made[3]]))
        view = CausalLM(hf, model.tokenizer)
    async with harness.running(view) as engine:
        (piece,) = await collect(engine, GenerationRequest(ids, 9))
    assert (piece.num_tokens, piece.finish_reason) == (made.index(made[3]), "stop")


async def test_an_answer_to_a_prompt_that_ends_in_a_blank_begins_after_it(
    engine: ServingEngine, model: CausalLM
) -> None:
    def text(ids: Sequence[int]) -> str:
        return str(model.tokenizer.decode(greedy_alone(model, ids, 6), skip_special_tokens=True))

    prompts = random_prompts(model, 40, seed=0)
    ids, plain = next((tuple(p), made) for p in prompts if (made := text(p)).startswith(" "))
    for streaming in (False, True):
        request = GenerationRequest(ids, 6, streaming=streaming, drops_blank=True, ignore_eos=True)
        assert text_of(await collect(engine, request)) == plain[1:]


async def test_alternatives_are_the_most_likely_tokens(
    engine: ServingEngine, harness: Harness, model: CausalLM, ids: tuple[int, ...]
) -> None:
    (piece,) = await collect(engine, GenerationRequest(ids, 2, num_alternatives=4))
    with torch.no_grad():
        log_p = model.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    values, tokens = log_p.topk(4)
    first = piece.choices[0]
    assert [token for token, _ in first.alternatives] == tokens.tolist()
    assert [p for _, p in first.alternatives] == pytest.approx(values.tolist(), abs=1e-3)
    assert (first.token_id, first.log_probability) == first.alternatives[0]


async def test_a_new_request_does_not_wait_for_running_rows(
    engine: ServingEngine, ids: tuple[int, ...]
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
async def test_a_routed_row_keeps_its_plan_when_the_route_changes(
    harness: Harness, model: CausalLM
) -> None:
    prompt = tuple(random_prompts(model, 1, seed=1)[0])
    synthetic = Synthetic(model)
    before, after = synthetic.plan("mixture"), synthetic.plan("expert")
    request = GenerationRequest(prompt, 30, ignore_eos=True, num_alternatives=0, streaming=True)

    async def alone(plan: object) -> list[int]:
        async with harness.running(model, routed({prompt: plan})) as engine:  # type: ignore[dict-item]
            pieces = await collect(engine, request)
        return [choice.token_id for piece in pieces for choice in piece.choices]

    async with harness.running(model, routed({prompt: before})) as engine:
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
    harness: Harness, model: CausalLM, ids: tuple[int, ...]
) -> None:
    limits = EngineLimits(max_rows=4, weight_versions=1, max_drain_seconds=0.05)
    state = ServingState(replace(VERSION, seq=1))
    async with harness.running(model, limits=limits) as engine:
        # 400 tokens: a fast machine makes a hundred before the change no longer waits for them.
        unary = asyncio.create_task(collect(engine, _long(ids, max_tokens=400, streaming=False)))
        stream = engine.generate(_long(ids, max_tokens=400))
        await anext(stream)
        await engine.change(lambda: state, alters_weights=True)
        with pytest.raises(UnavailableError, match="weights were replaced"):
            async for _ in stream:
                pass
        (piece,) = await unary
        assert (piece.version.seq, piece.num_tokens) == (1, 400)


async def test_a_failed_change_leaves_the_serving_state(engine: ServingEngine) -> None:
    def broken() -> ServingState:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await engine.change(broken, alters_weights=True)
    assert engine.version == VERSION


async def test_a_cancelled_row_frees_its_place_at_once(
    harness: Harness, model: CausalLM, ids: tuple[int, ...]
) -> None:
    async with harness.running(model, limits=EngineLimits(max_rows=1)) as engine:
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


async def test_a_full_queue_refuses_requests_and_then_serves_again(
    harness: Harness, model: CausalLM, ids: tuple[int, ...]
) -> None:
    request = GenerationRequest(ids, 20, ignore_eos=True)
    async with harness.running(model, limits=EngineLimits(max_rows=2, max_queue=8)) as engine:
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
    engine: ServingEngine, ids: tuple[int, ...]
) -> None:
    request = _long(ids, max_tokens=400, num_alternatives=0)
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
    harness: Harness, engine: ServingEngine, model: CausalLM
) -> None:
    with pytest.raises(InvalidRequestError, match="tokens; the limit is"):
        await collect(engine, GenerationRequest((1,) * 8, model.max_positions))
    limits = EngineLimits(max_context=20)
    async with harness.running(model, limits=limits) as small:
        with pytest.raises(InvalidRequestError, match="limit is 20"):
            await collect(small, GenerationRequest((1,) * 15, 6))
        assert await collect(small, GenerationRequest((1,) * 15, 5))


async def test_a_prefix_that_leaves_no_room_is_refused(harness: Harness, model: CausalLM) -> None:
    plan = Synthetic(model).plan("prefix")
    full = (3,) * (model.max_positions - 1)
    async with harness.running(model, routed({full: plan})) as engine:
        with pytest.raises(InvalidRequestError, match="adds 4 positions to the prompt"):
            await collect(engine, GenerationRequest(full, 1))
        assert await collect(engine, GenerationRequest((3,), 1))


async def test_a_prompt_that_cannot_be_routed_fails_alone(
    harness: Harness, model: CausalLM
) -> None:
    def route(requests: Sequence[Request]) -> list[RowPlan]:
        if any(request.prompt_ids == (13,) for request in requests):
            raise ValueError("no route")
        return [BASE for _ in requests]

    async with harness.running(
        model, ServingState(VERSION, router=FunctionRouter(route))
    ) as engine:
        results = await asyncio.gather(
            *[collect(engine, GenerationRequest((n,), 2)) for n in (12, 13, 14)],
            return_exceptions=True,
        )
    assert isinstance(results[1], ValueError)
    assert isinstance(results[0], list)
    assert isinstance(results[2], list)


async def test_scores_equal_those_of_a_plain_forward_pass(
    engine: ServingEngine, model: CausalLM, corpus: Corpus
) -> None:
    edits = corpus.demo_edits()[:4]
    rows = [tokenise(model, edit.prompt, edit.target) for edit in edits]
    requests = [
        ScoringRequest(row.ids[: -row.num_target], row.ids[-row.num_target :]) for row in rows
    ]
    scored = await asyncio.gather(*[engine.score(request) for request in requests])
    for request, result in zip(requests, scored, strict=True):
        every = [*request.prompt_ids, *request.continuation_ids]
        with torch.no_grad():
            log_p = model.model(input_ids=torch.tensor([every])).logits[0].log_softmax(-1)
        start = len(request.prompt_ids) - 1
        for index, token in enumerate(request.continuation_ids):
            assert result.log_probabilities[index] == pytest.approx(
                float(log_p[start + index, token]), abs=1e-3
            )
            assert result.argmax_ids[index] == int(log_p[start + index].argmax())


async def test_a_seed_gives_the_same_text_in_any_batch(
    engine: ServingEngine, ids: tuple[int, ...]
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
    harness: Harness, model: CausalLM, ids: tuple[int, ...]
) -> None:
    async with harness.running(model) as engine:
        stream = engine.generate(_long(ids))
        await anext(stream)
        await engine.close()
        with pytest.raises(UnavailableError, match="shutting down"):
            async for _ in stream:
                pass
        with pytest.raises(UnavailableError):
            await collect(engine, GenerationRequest(ids, 2))
