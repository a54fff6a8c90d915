"""P8 and P12: rows of every kind in one batch, for every model family."""

from __future__ import annotations

import asyncio
import random

import pytest
import torch

from errata.editing.effects.mixture import GatedMixture
from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.model.causal_lm import CausalLM
from errata.engine import offline
from errata.engine.limits import EngineLimits
from errata.engine.runner import Runner
from errata.engine.sampling import GREEDY
from errata.engine.sequence import GenerationRequest, Piece, ScoringRequest
from tests.unit.editing.tiny_models import FAMILIES, make_model
from tests.unit.engine.helpers import (
    KINDS,
    Synthetic,
    collect,
    random_prompts,
    routed,
    running,
)

# Kernels are not batch-invariant: a row's results alone and in a batch differ in their last bits.
TOLERANCE = 2e-4
LIMITS = EngineLimits(max_rows=5, max_queue=64, prefill_tokens=24)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> CausalLM:
    return make_model(request.param)


def _requests(model: CausalLM, seed: int) -> list[GenerationRequest]:
    rng = random.Random(seed)
    return [
        GenerationRequest(
            tuple(ids), rng.randint(1, 12), num_alternatives=3, ignore_eos=True, streaming=True
        )
        for ids in random_prompts(model, 14, seed)
    ]


def _plans(model: CausalLM, requests: list[GenerationRequest], seed: int) -> dict:
    synthetic, rng = Synthetic(model, seed), random.Random(seed)
    return {r.prompt_ids: synthetic.plan(rng.choice(KINDS)) for r in requests}


def _tokens(pieces: list[Piece]) -> list[tuple[int, float]]:
    return [(c.token_id, c.log_probability) for piece in pieces for c in piece.choices]


@pytest.mark.promise("P12")
@pytest.mark.parametrize("seed", range(3))
async def test_each_row_gets_the_same_answer_in_a_mixed_batch_as_alone(
    model: CausalLM, seed: int
) -> None:
    requests = _requests(model, seed)
    plans = _plans(model, requests, seed)
    kinds = {plan.edits for plan in plans.values()}
    assert len(kinds) == len(KINDS), "the batch must be mixed"
    async with running(model, routed(plans), LIMITS) as engine:
        together = await asyncio.gather(*[collect(engine, request) for request in requests])
        alone = [await collect(engine, request) for request in requests]
    async with running(model, limits=LIMITS) as plain:
        unedited = [await collect(plain, request) for request in requests]
    changed = 0
    for request, mixed, single, base in zip(requests, together, alone, unedited, strict=True):
        mine, its_own, without = _tokens(mixed), _tokens(single), _tokens(base)
        assert [token for token, _ in mine] == [token for token, _ in its_own]
        assert len(mine) == request.max_tokens
        for (_, log_p), (_, expected) in zip(mine, its_own, strict=True):
            assert log_p == pytest.approx(expected, abs=TOLERANCE)
        assert mixed[-1].edits == plans[request.prompt_ids].edits
        if plans[request.prompt_ids] is not BASE:
            changed += abs(mine[0][1] - without[0][1]) > 10 * TOLERANCE
        else:
            assert [token for token, _ in mine] == [token for token, _ in without]
    assert changed >= len([p for p in plans.values() if p is not BASE]) - 1, (
        "control: plans must matter by far more than the tolerance"
    )


def _logits(model: CausalLM, plans: list[RowPlan], prompts: list[list[int]], hooks: bool) -> list:
    """Logits of a prefill and three steps, of the same padded batch with hooks on or off."""
    runner = Runner(model, len(plans), 40)
    for row, (ids, plan) in enumerate(zip(prompts, plans, strict=True)):
        runner.put(row, ids, plan, GREEDY)
    runner.hooks.enabled = hooks
    sizes = [len(ids) + plan.num_positions for ids, plan in zip(prompts, plans, strict=True)]
    with torch.inference_mode():
        logits = runner.prefill(0, sizes, None).logits
        found = [logits.clone()]
        for step in range(3):
            # The same tokens in both runs, not those that the rows would have chosen.
            runner.append(0, torch.nn.functional.one_hot(logits.argmax(-1) * 0 + step + 3, 50))
            found.append(runner.step(0, len(plans)).clone())
    return found


@pytest.mark.promise("P8")
@pytest.mark.parametrize("seed", range(3))
def test_unclaimed_rows_equal_the_unhooked_batch_bit_for_bit(model: CausalLM, seed: int) -> None:
    rng, synthetic = random.Random(seed), Synthetic(model, seed)
    plans = [synthetic.plan(kind) for kind in [*KINDS, *rng.choices(KINDS, k=5)]]
    prompts = random_prompts(model, len(plans), seed)
    with_hooks = _logits(model, plans, prompts, hooks=True)
    without = _logits(model, plans, prompts, hooks=False)
    for on, off in zip(with_hooks, without, strict=True):
        for row, plan in enumerate(plans):
            if plan is BASE:
                assert torch.equal(on[row], off[row])
            else:
                assert (on[row] - off[row]).abs().max() > 10 * TOLERANCE, "control"


@pytest.mark.promise("P8")
def test_nan_in_an_artifact_stays_in_its_rows(model: CausalLM) -> None:
    synthetic = Synthetic(model)
    mixture = synthetic.plan("mixture")
    gated = mixture.effect(GatedMixture)
    assert gated is not None
    for bank in gated.mixture.banks.values():
        bank.a.fill_(float("nan"))
    plans, prompts = [BASE, mixture, BASE], random_prompts(model, 3, 1)
    on, off = (_logits(model, plans, prompts, hooks=hooks) for hooks in (True, False))
    for a, b in zip(on, off, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[2], b[2])
        assert a[1].isnan().any(), "control"


@pytest.mark.promise("P12")
async def test_a_long_prompt_read_in_parts_gives_the_same_answer(model: CausalLM) -> None:
    synthetic = Synthetic(model, 3)
    ids = tuple(random_prompts(model, 1, 5, longest=40)[0])
    while len(ids) < 40:
        ids = (*ids, 7)
    request = GenerationRequest(ids, 8, num_alternatives=0, ignore_eos=True, streaming=True)
    for kind in KINDS:
        state = routed({ids: synthetic.plan(kind)})
        answers = []
        for budget in (7, 512):
            limits = EngineLimits(max_rows=3, prefill_tokens=budget)
            async with running(model, state, limits) as engine:
                short = GenerationRequest((5, 6), 20, ignore_eos=True)
                both = await asyncio.gather(collect(engine, short), collect(engine, request))
                answers.append(_tokens(both[1]))
        assert [t for t, _ in answers[0]] == [t for t, _ in answers[1]]
        for (_, a), (_, b) in zip(*answers, strict=True):
            assert a == pytest.approx(b, abs=TOLERANCE)


async def test_scores_are_the_log_probabilities_of_generation(model: CausalLM) -> None:
    """With every kind of plan, scores are the log-probabilities of generation."""
    requests = _requests(model, 9)
    plans = _plans(model, requests, 9)
    async with running(model, routed(plans), LIMITS) as engine:
        made = await asyncio.gather(*[collect(engine, request) for request in requests])
        scored = await asyncio.gather(
            *[
                engine.score(
                    ScoringRequest(request.prompt_ids, tuple(t for t, _ in _tokens(pieces)))
                )
                for request, pieces in zip(requests, made, strict=True)
            ]
        )
    for pieces, score in zip(made, scored, strict=True):
        tokens = _tokens(pieces)
        assert list(score.argmax_ids) == [token for token, _ in tokens]
        assert score.log_probabilities == pytest.approx([p for _, p in tokens], abs=TOLERANCE)
        assert score.edits == pieces[-1].edits


def test_repeated_calls_hook_a_model_once(model: CausalLM) -> None:
    plan = Synthetic(model).plan("prefix")
    for _ in range(3):
        offline.score(model, [(1, 2)], [(3,)], [plan])
    assert len(model.embeddings._forward_hooks) == 1
