"""Which edits of a LEMoE expert are also learned as questions, and when a fit has learned them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from errata.editing.edit import Edit
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.fit import FitInputs, _training_set
from errata.editing.lemoe.training import TrainingSet, _steps
from errata.editing.model.causal_lm import CausalLM
from tests.unit.editing.lanes import are_answered
from tests.unit.editing.lemoe_models import FACTS, SMALL, Lane
from tests.unit.editing.tiny_models import TextResources

NOTHING = FitInputs(torch.zeros(0), torch.zeros(0), ())
LYON = Edit("edits/2-0", "Lyon is in", "Finland", "Lyon")
NOKIA = Edit("edits/2-1", "Nokia makes", "cars", "Nokia")


def _data(model: CausalLM, *edits: Edit) -> TrainingSet:
    config = LemoeConfig(num_questions=4, num_contexts=0)
    return _training_set(model, edits, torch.zeros(len(edits), 1), config, NOTHING, None)


def _num_texts(model: CausalLM, *edits: Edit) -> list[int]:
    return _data(model, *edits).owners.bincount().tolist()


def test_an_edit_is_learned_as_questions(llama: CausalLM) -> None:
    assert min(_num_texts(llama, LYON, NOKIA)) > 1


def test_two_edits_of_a_subject_teach_one_expert_no_questions_that_would_contradict(
    llama: CausalLM,
) -> None:
    other = replace(LYON, name="edits/2-2", prompt="lyon is in the continent", subject="lyon")
    _, alone = _num_texts(llama, LYON, NOKIA)
    assert _num_texts(llama, LYON, NOKIA, other) == [1, alone, 1]


def test_questions_need_a_scope_test() -> None:
    with pytest.raises(ValidationError, match="num_questions needs a scope test"):
        LemoeConfig(scope="off", num_questions=1)


def test_prompt_and_rephrases_are_an_edits_own_texts(llama: CausalLM) -> None:
    data = _data(llama, LYON, replace(NOKIA, rephrases=("Nokia produces",)))
    firsts = (data.owners == 0).nonzero()[0], (data.owners == 1).nonzero()[:2, 0]
    assert data.is_own.nonzero()[:, 0].tolist() == torch.cat(firsts).tolist()


@pytest.mark.parametrize(
    ("unlearned", "share", "is_done"),
    [
        ([], 1.0, True),
        ([9], 1.0, False),
        ([9], 0.8, True),
        ([8, 9], 0.8, True),
        ([7, 8, 9], 0.8, False),
    ],
)
def test_a_fit_stops_once_enough_is_learned_and_all_that_edits_brought(
    unlearned: list[int], share: float, is_done: bool
) -> None:
    """Ten texts, the first two of which an edit brought."""
    config = LemoeConfig(batch_rows=4, stop_share=share)
    data = TrainingSet([], torch.zeros(10), torch.arange(10) < 2, torch.zeros(1, 1))
    for own in ([], [1]):
        nlls = torch.full((10,), 0.01)
        nlls[unlearned + own] = 0.2
        ended = _ended_passes(data, nlls, config)
        assert [next(ended) for _ in range(6)] == [False, False, is_done and not own] * 2


def _ended_passes(data: TrainingSet, nlls: Tensor, config: LemoeConfig) -> Iterator[bool]:
    """Whether a fit may stop after each step."""
    for step in _steps(data, config, seed=3):
        step.record(nlls[step.rows])
        yield step.is_done(config)


def test_a_fit_goes_on_until_all_edits_of_its_expert_are_said(
    sure_llama: CausalLM, resources: TextResources, steps: list[int]
) -> None:
    said = []
    for extra_steps in (0, 400):
        values = {"steps": 1, "num_contexts": 0, "batch_rows": 1, "extra_steps": extra_steps}
        lane = Lane(sure_llama, SMALL.model_copy(update=values), resources)
        steps.append(0)
        lane.edit(*FACTS[:2])
        said.append(are_answered(sure_llama, lane.lane.view(), FACTS[:2]))
    assert not any(said[0])
    assert all(said[1])
    assert steps[0] == 1 < steps[1] < 400, "it ends as soon as all edits are said"
