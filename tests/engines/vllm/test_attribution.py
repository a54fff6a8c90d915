"""P10 on vLLM: the edits of the weights that shape an answer are read in the workers."""

from __future__ import annotations

import asyncio

import pytest
import torch
from torch import Tensor, nn

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.packing import pack
from errata.editing.adaple.solve import LowRankDelta
from errata.editing.adaple.state import AdapleState
from errata.editing.adaple.view import AdapleAttribution
from errata.editing.lane.commits import Commit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.weights import EditedWeights
from errata.engine.contract import ServingEngine
from errata.engine.limits import EngineLimits
from errata.engine.sequence import GenerationRequest, ScoringRequest
from errata.engine.serving_state import ServingState
from tests.engines.vllm.harness import VllmHarness
from tests.unit.engine.helpers import VERSION, Synthetic, collect, random_prompts, routed, running

pytestmark = pytest.mark.asyncio(loop_scope="session")

NUM_OTHERS = 600  # more than two chunks of directions
LIMITS = EngineLimits(max_rows=4, max_queue=64, prefill_tokens=32)


def _inputs(model: CausalLM, layer: int, prompt: tuple[int, ...]) -> Tensor:
    """Inputs of a layer's down projection at the prompt's tokens, (T, d_ff)."""
    seen: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0][0].clone())

    handle = model.down(layer).register_forward_pre_hook(record)
    with torch.no_grad():
        model.model(input_ids=torch.tensor([prompt]))
    handle.remove()
    return seen[0]


def _state(model: CausalLM, prompts: list[tuple[int, ...]]) -> AdapleState:
    """Edits whose keys are the last tokens of prompts, between many that respond to nothing."""
    config = AdapleConfig(layers=(1, 2))
    state = AdapleState(model, config, EditedWeights(model), "lanes/test")
    generator = torch.Generator().manual_seed(0)
    size = NUM_OTHERS + len(prompts)
    own = range(0, size, size // len(prompts))
    deltas, keys = {}, {}
    for layer in config.layers:
        right = torch.randn(model.d_ff, size, generator=generator)
        key = 1e4 * right.double()
        for column, prompt in zip(own, prompts, strict=False):
            right[:, column] = _inputs(model, layer, prompt)[-1]
            key[:, column] = 1.5 * right[:, column].double()
        deltas[layer] = LowRankDelta(1e-4 * torch.randn(model.d, size, generator=generator), right)
        keys[layer] = key
    names = tuple(f"edits/2-{number}" for number in range(size))
    artifact = pack(model, config, 0, deltas, keys, list(names), [()] * size)
    state.prepare_commit(Commit(2, names, artifact)).apply()
    return state


@pytest.mark.promise("P10")
async def test_answers_name_the_same_edits_as_on_the_embedded_engine(
    harness: VllmHarness, model: CausalLM
) -> None:
    """Long and short prompts, one of them behind a continuous prompt."""
    base = model.down_weights()
    prompts = [tuple(prompt) for prompt in random_prompts(model, 5, seed=2)]
    prompts.append(prompts[0][::-1] * 9)
    state = _state(model, prompts[:4])
    router = routed({prompts[1]: Synthetic(model).plan("prefix")}).router
    serving = ServingState(VERSION, AdapleAttribution(state), router)
    edited = model.down_weights()
    model.use_down_weights(base)

    def swap() -> ServingState:
        model.use_down_weights(edited)
        return serving

    async def answers(engine: ServingEngine) -> list[tuple[str, ...]]:
        await engine.change(swap, alters_weights=True)
        requests = [GenerationRequest(prompt, 3, streaming=True) for prompt in prompts]
        found = await asyncio.gather(*[collect(engine, request) for request in requests])
        assert all(piece.edits == pieces[0].edits for pieces in found for piece in pieces)
        again = await collect(engine, requests[0])
        assert again[-1].edits == found[0][-1].edits, "also with its prompt in the cache"
        scored = await engine.score(ScoringRequest(prompts[0], prompts[2]))
        assert scored.edits == found[0][-1].edits, "the continuation names no edit"
        return [pieces[-1].edits for pieces in found]

    async with running(model, limits=LIMITS) as reference:
        expected = await answers(reference)
    model.use_down_weights(base)
    async with harness.running(model, limits=LIMITS) as engine:
        assert await answers(engine) == expected
        await engine.change(lambda: routed({}), alters_weights=False)
        assert (await collect(engine, GenerationRequest(prompts[0], 3)))[-1].edits == ()
    model.use_down_weights(base)
    assert all(expected[:4]), "control: each edit must respond to its prompt"
    assert expected[4] == ()
