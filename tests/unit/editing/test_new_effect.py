"""A fifth method's effect, made in a folder of its own, runs beside those of the services.

Whatever it needs is in `toy_method`; nothing else knows of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.effects.prefix import Prefix
from errata.editing.effects.table import PlanTable
from errata.editing.model.causal_lm import CausalLM
from errata.engine.limits import EngineLimits
from errata.engine.runner import Runner
from errata.engine.sampling import GREEDY
from errata.engine.sequence import GenerationRequest, Piece
from tests.unit.editing.tiny_models import make_model
from tests.unit.editing.toy_method.effect import Bias, BiasBatch
from tests.unit.engine.helpers import (
    KINDS,
    Synthetic,
    collect,
    random_prompts,
    routed,
    running,
)

# Rows are not computed alike in every batch: kernels choose by shapes.
TOLERANCE = 2e-4
LAYER = 2  # where some of the other rows' mixtures and experts are, too
STEPS = 3


@pytest.fixture(scope="module", params=("gpt2", "gptj", "llama"))
def model(request: pytest.FixtureRequest) -> CausalLM:
    return make_model(request.param)


def _biased(model: CausalLM, layer: int = LAYER, seed: int = 0) -> RowPlan:
    drawn = torch.randn(model.d, generator=torch.Generator().manual_seed(seed))
    return RowPlan((Bias(layer, drawn),), ("edits/4-0",))


def _bias(plan: RowPlan) -> Tensor:
    effect = plan.effect(Bias)
    assert effect is not None
    return effect.bias


def _runner(model: CausalLM, prompts: Sequence[list[int]], plans: Sequence[RowPlan]) -> Runner:
    runner = Runner(model, len(plans), 40)
    for row, (ids, plan) in enumerate(zip(prompts, plans, strict=True)):
        runner.put(row, ids, plan, GREEDY)
    return runner


def _prefilled(runner: Runner, prompts: Sequence[list[int]], plans: Sequence[RowPlan]) -> Tensor:
    sizes = [len(ids) + plan.num_positions for ids, plan in zip(prompts, plans, strict=True)]
    return runner.prefill(0, sizes, None).logits


def _stepped(runner: Runner, num_rows: int, token: int) -> Tensor:
    """Logits behind a token that is given, whatever the rows would have chosen."""
    vocabulary = int(runner.model.head.get_parameter("weight").shape[0])
    given = torch.full((num_rows,), token)
    runner.append(0, nn.functional.one_hot(given, vocabulary).to(runner.model.device))
    return runner.step(0, num_rows)


@torch.inference_mode()
def _logits(
    model: CausalLM, prompts: Sequence[list[int]], plans: Sequence[RowPlan]
) -> list[Tensor]:
    """(B, V) of a prefill and of some steps."""
    runner = _runner(model, prompts, plans)
    found = [_prefilled(runner, prompts, plans).clone()]
    for step in range(STEPS):
        found.append(_stepped(runner, len(plans), step + 3).clone())
    return found


def _mixed(model: CausalLM, seed: int) -> tuple[list[list[int]], list[RowPlan]]:
    """Rows of all kinds, those of the services twice; the longest is the base model's.

    So batches have the same shapes, whichever of the rows have plans.
    """
    synthetic = Synthetic(model, seed)
    plans = [synthetic.plan(kind) for kind in (*KINDS, *KINDS)]
    prompts = random_prompts(model, len(plans), seed, longest=6)
    prompts[plans.index(BASE)] = [7] * 16
    return prompts, plans


@pytest.mark.promise("P8", "P12")
def test_a_new_effect_changes_its_own_rows_and_no_bit_of_others(model: CausalLM) -> None:
    prompts, without = _mixed(model, 1)
    own = (4, 6)  # a base row and a mixture's
    plans = [_biased(model, seed=row) if row in own else plan for row, plan in enumerate(without)]
    others = [BASE if row in own else plan for row, plan in enumerate(without)]
    with_bias = _logits(model, prompts, plans)
    for on, off in zip(with_bias, _logits(model, prompts, others), strict=True):
        for row in range(len(plans)):
            if row in own:
                assert (on[row] - off[row]).abs().max() > 100 * TOLERANCE, "control"
            else:
                assert torch.equal(on[row], off[row])


@pytest.mark.promise("P12")
def test_a_row_with_a_new_effect_is_computed_as_alone(model: CausalLM) -> None:
    prompts, plans = _mixed(model, 2)
    own = 4
    plans[own] = _biased(model)
    together = _logits(model, prompts, plans)
    only = [plan if row == own else BASE for row, plan in enumerate(plans)]
    same_shapes = _logits(model, prompts, only)
    bias = _bias(plans[own])
    handle = model.ffn(LAYER).register_forward_hook(lambda _, args, output: output + bias)
    by_hand = _logits(model, [prompts[own]], [BASE])
    handle.remove()
    unedited = _logits(model, [prompts[own]], [BASE])
    for step, found in enumerate(together):
        assert torch.equal(found[own], same_shapes[step][own])
        torch.testing.assert_close(found[own], by_hand[step][0], atol=TOLERANCE, rtol=0)
        assert (found[own] - unedited[step][0]).abs().max() > 100 * TOLERANCE, "control"


@torch.inference_mode()
def test_rows_with_a_new_effect_move_and_are_freed(model: CausalLM) -> None:
    prompts, plans = _mixed(model, 3)
    last = len(plans) - 1
    plans[last] = _biased(model)
    expected = _logits(model, prompts, plans)
    runner = _runner(model, prompts, plans)
    _prefilled(runner, prompts, plans)
    runner.free(1)
    runner.move(last, 1)
    places = [0, last, *range(2, last)]  # who is where now
    for step in range(STEPS):
        found = _stepped(runner, last, step + 3)
        wanted = expected[1 + step][places]
        torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=0)
    runner.free(1)
    runner.put(1, prompts[1], BASE, GREEDY)
    assert runner.plans.view(0, last).effect(BiasBatch) is None, "nothing of it is left"


def test_a_plan_has_one_effect_of_a_type_and_one_that_takes_positions(model: CausalLM) -> None:
    @dataclass(frozen=True, eq=False)
    class Suffix(Prefix):
        """Takes positions, too."""

    prompt, bias = torch.zeros(2, model.d), Bias(LAYER, torch.zeros(model.d))
    both = RowPlan((Prefix(prompt), bias))
    assert (both.num_positions, both.effect(Bias)) == (2, bias)
    with pytest.raises(ValueError, match="two effects of one type"):
        RowPlan((bias, Bias(LAYER, bias.bias)))
    with pytest.raises(ValueError, match="take positions"):
        RowPlan((Prefix(prompt), Suffix(prompt)))


def test_a_table_keeps_rows_of_a_new_effect_by_layer(model: CausalLM) -> None:
    table = PlanTable(5, model.d, device=model.device, dtype=model.dtype)
    assert table.view(0, 5).effects == ()
    plans = {0: _biased(model, 1, seed=1), 2: _biased(model, 3, seed=2), 4: _biased(model, 1, 3)}
    for row, plan in plans.items():
        table.put(row, plan)
    table.free(0)
    table.move(4, 1)
    batch = table.view(1, 3).effect(BiasBatch)
    assert batch is not None
    assert table.view(1, 3).effect(BiasBatch) is batch, "kept while the same rows run"
    assert {layer: rows.tolist() for layer, (rows, _) in batch.layers.items()} == {1: [0], 3: [1]}
    for layer, row in ((1, 4), (3, 2)):
        assert torch.equal(batch.layers[layer][1][0, 0], _bias(plans[row]))
    table.free(1)
    table.free(2)
    assert table.view(0, 5).effects == ()


@pytest.mark.promise("P12")
async def test_the_engine_serves_a_new_effect_in_mixed_batches(model: CausalLM) -> None:
    """More requests than rows, of different lengths: rows leave, move and are used again."""
    rng, synthetic = random.Random(4), Synthetic(model, 4)
    requests = [
        GenerationRequest(
            tuple(ids), rng.randint(1, 10), num_alternatives=0, ignore_eos=True, streaming=True
        )
        for ids in random_prompts(model, 15, 4)
    ]
    kinds = [*KINDS, "bias"] * 3
    plans = {
        request.prompt_ids: _biased(model, seed=number) if kind == "bias" else synthetic.plan(kind)
        for number, (request, kind) in enumerate(zip(requests, kinds, strict=True))
    }
    limits = EngineLimits(max_rows=4, max_queue=64, prefill_tokens=24)
    async with running(model, routed(plans), limits) as engine:
        together = await asyncio.gather(*[collect(engine, request) for request in requests])
        alone = [await collect(engine, request) for request in requests]
    async with running(model, limits=limits) as plain:
        unedited = [await collect(plain, request) for request in requests]
    for kind, mixed, single, base in zip(kinds, together, alone, unedited, strict=True):
        assert [token for token, _ in _tokens(mixed)] == [token for token, _ in _tokens(single)]
        expected = [log_p for _, log_p in _tokens(single)]
        assert [log_p for _, log_p in _tokens(mixed)] == pytest.approx(expected, abs=TOLERANCE)
        if kind == "bias":
            assert abs(_tokens(mixed)[0][1] - _tokens(base)[0][1]) > 10 * TOLERANCE, "control"
            assert mixed[-1].edits == ("edits/4-0",)


def _tokens(pieces: Sequence[Piece]) -> list[tuple[int, float]]:
    return [(c.token_id, c.log_probability) for piece in pieces for c in piece.choices]
