"""P6, P8 and P12 where vLLM could break them: shared steps, shared prefixes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import torch
from vllm.sampling_params import SamplingParams

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.model.causal_lm import CausalLM
from errata.engine.contract import ServingEngine
from errata.engine.limits import EngineLimits
from errata.engine.sequence import GenerationRequest, Piece, Request, ScoringRequest
from errata.engine.serving_state import FunctionRouter, ServingState
from errata.errors import DeadlineExceededError, UnavailableError
from errata_vllm.running import RunningRequests
from tests.engines.vllm.harness import VllmHarness
from tests.unit.engine.helpers import (
    KINDS,
    VERSION,
    Synthetic,
    collect,
    random_prompts,
    routed,
    running,
)
from tests.waiting import PATIENCE

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOLERANCE = 1e-3


@asynccontextmanager
async def _first_step_together(
    harness: VllmHarness, engine: ServingEngine, count: int
) -> AsyncIterator[None]:
    """vLLM starts with none of `count` requests before it has all: every step has the same rows."""
    raw = harness.llm._llm
    await raw.pause_generation(mode="keep", clear_cache=True)
    yield
    while engine._num_handed < count:  # type: ignore[attr-defined]
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)  # on their way to vLLM's process
    await raw.resume_generation()


def _bits(pieces: Sequence[Piece]) -> list[tuple[int, float, object]]:
    return [
        (c.token_id, c.log_probability, c.alternatives) for piece in pieces for c in piece.choices
    ]


@pytest.mark.promise("P8")
async def test_rows_without_a_claim_keep_their_bits_beside_rows_with_one(
    harness: VllmHarness, model: CausalLM
) -> None:
    prompts = [tuple(prompt) for prompt in random_prompts(model, 8, seed=6)]
    synthetic = Synthetic(model, 6)
    plans = {p: synthetic.plan(KINDS[n % len(KINDS)]) for n, p in enumerate(prompts)}
    requests = [
        GenerationRequest(p, 8, num_alternatives=5, ignore_eos=True, streaming=True)
        for p in prompts
    ]

    async def answers(engine: ServingEngine, *, acting: bool) -> list[list[Piece]]:
        await harness.llm.enable(acting)
        async with _first_step_together(harness, engine, len(requests)):
            tasks = [asyncio.create_task(collect(engine, request)) for request in requests]
            await asyncio.sleep(0)
        return await asyncio.gather(*tasks)

    limits = EngineLimits(max_rows=8, max_queue=64)
    async with harness.running(model, routed(plans), limits) as engine:
        with_effects = await answers(engine, acting=True)
        without = await answers(engine, acting=False)
        await harness.llm.enable(True)
    for prompt, edited, plain in zip(prompts, with_effects, without, strict=True):
        if plans[prompt] is BASE:
            assert _bits(edited) == _bits(plain)
        else:
            assert _bits(edited) != _bits(plain), "control: effects must act"


def _long_prompt(model: CausalLM) -> tuple[int, ...]:
    """Longer than two blocks of the KV cache."""
    return tuple(random_prompts(model, 1, seed=9, longest=2)[0] * 200)[:300]


@pytest.mark.promise("P6", "P12")
async def test_cached_prefixes_never_mix_plans(
    harness: VllmHarness, model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = _long_prompt(model)
    request = GenerationRequest(prompt, 4, num_alternatives=0, ignore_eos=True)
    synthetic = Synthetic(model, 2)
    plans = [synthetic.plan(kind) for kind in ("base", "mixture", "prefix", "expert", "base")]

    async def asked(engine: ServingEngine) -> list[float]:
        found = []
        for plan in plans:
            state = routed({prompt: plan})
            await engine.change(lambda state=state: state, alters_weights=False)  # type: ignore[misc]
            pieces = await collect(engine, request)
            found.append(pieces[-1].choices[0].log_probability)
        return found

    async with running(model) as reference:
        expected = await asked(reference)
    async with harness.running(model) as engine:
        assert await asked(engine) == pytest.approx(expected, abs=TOLERANCE)
    monkeypatch.setattr(RunningRequests, "_salt", lambda self, row: "all the same")
    async with harness.running(model) as engine:
        mixed = await asked(engine)
    assert mixed != pytest.approx(expected, abs=10 * TOLERANCE), "control: without salts they mix"


@pytest.mark.promise("P6")
async def test_cached_prefixes_never_mix_weights(
    harness: VllmHarness, model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = _long_prompt(model)
    request = GenerationRequest(prompt, 4, num_alternatives=0, ignore_eos=True)
    base = model.down_weights()
    edited = [1.5 * weight if layer == 1 else weight for layer, weight in enumerate(base)]

    async def asked(engine: ServingEngine) -> list[float]:
        found = []
        for seq, weights in enumerate((base, edited, base, edited)):

            def swap(weights: list = weights, seq: int = seq) -> ServingState:
                model.use_down_weights(weights)
                return ServingState(replace(VERSION, seq=seq))

            await engine.change(swap, alters_weights=True)
            (piece,) = await collect(engine, request)
            assert piece.version.seq == seq
            found.append(piece.choices[0].log_probability)
        model.use_down_weights(base)
        return found

    async with running(model) as reference:
        expected = await asked(reference)
    assert abs(expected[0] - expected[1]) > 10 * TOLERANCE, "control: the change must matter"
    async with harness.running(model) as engine:
        assert await asked(engine) == pytest.approx(expected, abs=TOLERANCE)
    monkeypatch.setattr(RunningRequests, "_salt", lambda self, row: "all the same")
    async with harness.running(model) as engine:
        mixed = await asked(engine)
    assert mixed != pytest.approx(expected, abs=10 * TOLERANCE), "control: without salts they mix"


async def test_requests_without_a_claim_share_cached_prefixes(
    harness: VllmHarness, model: CausalLM
) -> None:
    prompt = _long_prompt(model)[::-1]
    request = GenerationRequest(prompt, 2, ignore_eos=True)
    async with harness.running(model, routed({(1,): Synthetic(model).plan("mixture")})) as engine:
        await collect(engine, request)
        outputs = harness.llm.generate(prompt, SamplingParams(max_tokens=1), "", "probe")
        cached = [output.num_cached_tokens async for output in outputs]
    assert cached[-1] >= 128


async def test_a_score_does_not_depend_on_what_is_in_the_prefix_cache(
    harness: VllmHarness, model: CausalLM
) -> None:
    prompt = _long_prompt(model)
    requests = [ScoringRequest(prompt, prompt[n : n + 3]) for n in (5, 40)]
    async with running(model) as reference:
        expected = [await reference.score(request) for request in requests]
    async with harness.running(model) as engine:
        await collect(engine, GenerationRequest(prompt, 2))
        for request, wanted in zip(requests * 2, expected * 2, strict=True):
            found = await engine.score(request)
            assert list(found.log_probabilities) == pytest.approx(
                list(wanted.log_probabilities), abs=TOLERANCE
            )


async def test_only_changed_weights_are_copied_and_only_by_changes_of_weights(
    harness: VllmHarness, model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[list[int]] = []
    replace_down = harness.llm.replace_down

    async def noted(weights: dict[int, torch.Tensor]) -> dict[int, str]:
        copied.append(sorted(weights))
        return await replace_down(weights)

    def swap() -> ServingState:
        model.set_down_weight(2, 1.1 * model.down_weight(2))
        return ServingState(VERSION)

    async with harness.running(model) as engine:
        monkeypatch.setattr(harness.llm, "replace_down", noted)
        await engine.change(lambda: ServingState(VERSION), alters_weights=False)
        await engine.change(lambda: ServingState(VERSION), alters_weights=True)
        assert copied == []
        await engine.change(swap, alters_weights=True)
        assert copied == [[2]]
        monkeypatch.undo()


async def test_requests_that_are_being_routed_fail_when_the_engine_closes(
    harness: VllmHarness, model: CausalLM
) -> None:
    routing, go = threading.Event(), threading.Event()

    def route(requests: Sequence[Request]) -> list[RowPlan]:
        routing.set()
        go.wait(PATIENCE)
        return [BASE for _ in requests]

    state = ServingState(VERSION, router=FunctionRouter(route))
    async with harness.running(model, state) as engine:
        task = asyncio.create_task(collect(engine, GenerationRequest((3,), 2)))
        await asyncio.to_thread(routing.wait, PATIENCE)
        assert engine.num_waiting == 1, "what is being routed still waits"
        await engine.close()
        go.set()
        with pytest.raises(UnavailableError, match="shutting down"):
            await asyncio.wait_for(task, PATIENCE)


async def test_a_deadline_is_kept_while_a_change_waits(
    harness: VllmHarness, model: CausalLM
) -> None:
    limits = EngineLimits(max_rows=2, max_queue=16, max_drain_seconds=PATIENCE)
    go = threading.Event()

    def swap() -> ServingState:
        go.wait(PATIENCE)
        return ServingState(VERSION)

    async with harness.running(model, limits=limits) as engine:
        change = asyncio.create_task(engine.change(swap, alters_weights=True))
        await asyncio.sleep(0)
        late = GenerationRequest((3,), 2, deadline=time.monotonic() + 0.05)
        with pytest.raises(DeadlineExceededError):
            await asyncio.wait_for(collect(engine, late), PATIENCE)
        assert not change.done()
        go.set()
        await change
        assert await collect(engine, GenerationRequest((3,), 2))
