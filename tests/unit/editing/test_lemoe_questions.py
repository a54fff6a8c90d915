"""Which edits of a LEMoE expert are also learned as questions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from errata.editing.edit import Edit
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.fit import FitInputs, _training_set
from errata.editing.model.causal_lm import CausalLM

NOTHING = FitInputs(torch.zeros(0), torch.zeros(0), ())
LYON = Edit("edits/2-0", "Lyon is in", "Finland", "Lyon")
NOKIA = Edit("edits/2-1", "Nokia makes", "cars", "Nokia")


def _num_texts(model: CausalLM, *edits: Edit) -> list[int]:
    config = LemoeConfig(num_questions=4, num_contexts=0)
    data = _training_set(model, edits, torch.zeros(len(edits), 1), config, NOTHING, None)
    return data.owners.bincount().tolist()


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
