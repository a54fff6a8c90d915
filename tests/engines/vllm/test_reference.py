"""vLLM, in all ways in which Errata runs it, against the embedded engine."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from errata.editing.effects.plan import BASE
from errata.editing.model.causal_lm import CausalLM
from errata.engine.contract import ServingEngine
from errata.engine.sequence import GenerationRequest, Piece, ScoringRequest
from errata.engine.serving_state import ServingState
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

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOLERANCE = 1e-3


def _first(pieces: list[Piece]) -> tuple[list[int], float]:
    choices = [choice for piece in pieces for choice in piece.choices]
    return [choice.token_id for choice in choices], choices[0].log_probability


@pytest.mark.promise("P12")
async def test_effects_are_those_of_the_embedded_engine(
    harness: VllmHarness, model: CausalLM
) -> None:
    prompts = [tuple(prompt) for prompt in random_prompts(model, 12, seed=5)]
    synthetic = Synthetic(model, 5)
    plans = {p: synthetic.plan(KINDS[n % len(KINDS)]) for n, p in enumerate(prompts)}
    requests = [GenerationRequest(p, 6, num_alternatives=0, ignore_eos=True) for p in prompts]

    async def answers(engine: ServingEngine) -> list[list[Piece]]:
        return await asyncio.gather(*[collect(engine, request) for request in requests])

    async with running(model, routed(plans)) as reference:
        expected = await answers(reference)
    async with running(model) as plain:
        unedited = await answers(plain)
    async with harness.running(model, routed(plans)) as engine:
        found = await answers(engine)
    for mine, wanted, base, prompt in zip(found, expected, unedited, prompts, strict=True):
        tokens, log_probability = _first(mine)
        assert tokens == _first(wanted)[0]
        assert log_probability == pytest.approx(_first(wanted)[1], abs=TOLERANCE)
        differs = abs(_first(wanted)[1] - _first(base)[1])
        assert (plans[prompt] is BASE) == (differs < 10 * TOLERANCE), "control: plans must matter"


@pytest.mark.promise("P6")
async def test_edited_weights_are_those_of_the_embedded_engine(
    harness: VllmHarness, model: CausalLM
) -> None:
    prompt = tuple(random_prompts(model, 1, seed=7)[0])
    request = ScoringRequest(prompt, prompt[::-1])
    base = model.down_weights()
    edited = [weight.roll(1, dims=1) if n in (1, 3) else weight for n, weight in enumerate(base)]

    def swap() -> ServingState:
        model.use_down_weights(edited)
        return ServingState(replace(VERSION, seq=1))

    async with harness.running(model) as engine:
        before = await engine.score(request)
        await engine.change(swap, alters_weights=True)
        after = await engine.score(request)
        async with running(model) as reference:
            expected = await reference.score(request)
        model.use_down_weights(base)
    assert after.version.seq == 1
    assert list(after.log_probabilities) == pytest.approx(
        list(expected.log_probabilities), abs=TOLERANCE
    )
    assert list(before.log_probabilities) != pytest.approx(
        list(expected.log_probabilities), abs=10 * TOLERANCE
    ), "control: each slice must matter"
