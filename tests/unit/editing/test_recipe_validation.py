"""Validation of a lane model in training, and the calibration of its sentinel."""

from dataclasses import replace

import pytest
import torch

from errata.editing.model.causal_lm import CausalLM
from errata.editing.retriever.examples import Sample
from errata.editing.retriever.start import initialise_retriever
from errata.editing.retriever.validation import calibrated, validate
from tests.unit.editing.recipe_models import D_R, examples_of_towns, make_lane_model


def test_validation_counts_claims_and_answers_as_served(llama: CausalLM) -> None:
    model = make_lane_model(llama)
    examples = examples_of_towns(6)
    with torch.no_grad():
        model.key_mlp.first.bias.zero_()
        silent = validate(model, llama, examples, torch.zeros(0, D_R))
        queries = model.queries([e.prompt for e in examples])
        crowd = 1e6 * queries.mean(0, keepdim=True)  # wins every query
        crowded = validate(model, llama, examples, crowd)
    assert 0 <= silent.claimed_right <= 1
    assert crowded.claimed_right == 0
    assert crowded.claimed_wrongly == 1
    assert crowded.with_own_prompt == silent.with_own_prompt
    assert replace(silent, locality=0.0).score == 0
    right = replace(silent, reliability=1.0, generality=0.5, locality=1.0, other_answers=1.0)
    assert right.score == pytest.approx(0.8)


def test_validation_also_counts_other_questions_and_targets(llama: CausalLM) -> None:
    model, examples, nothing = make_lane_model(llama), examples_of_towns(6), torch.zeros(0, D_R)
    same = [Sample(e, e.rephrases[0], e.locality[0]) for e in examples]
    alone = validate(model, llama, examples, nothing)
    assert alone.other_answers == alone.with_own_prompt
    again = validate(model, llama, examples, nothing, same)
    assert again.other_answers == pytest.approx(alone.with_own_prompt, abs=1e-6)
    with torch.no_grad():
        model.prompt_mlp.second.bias.fill_(50)  # no answer survives this
    lost = validate(model, llama, examples, nothing, same)
    assert lost.other_answers == pytest.approx(lost.with_own_prompt, abs=1e-6)
    assert replace(
        alone, reliability=1.0, generality=1.0, locality=1.0, other_answers=0.5
    ).score == (pytest.approx(4 / 5))


def test_calibration_balances_claims_and_deferrals(llama: CausalLM) -> None:
    model, examples = make_lane_model(llama), examples_of_towns(8)
    nothing = torch.zeros(0, D_R)
    initialise_retriever(model, examples)
    before = model.sentinel_key()
    model.calibration.fill_(calibrated(model, examples, nothing))
    torch.testing.assert_close(model.sentinel_key(), model.calibration * before)

    def balance(factor: float) -> float:
        model.calibration.fill_(factor)
        return validate(model, llama, examples, nothing).retriever_score

    best = round(40 * float(model.calibration))
    found = {n: balance(n / 40) for n in range(20, 61)}
    assert found[best] == pytest.approx(max(found.values()), abs=1e-6)
    assert len({round(score, 6) for score in found.values()}) > 1, "otherwise this shows nothing"
