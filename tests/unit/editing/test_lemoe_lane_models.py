"""LEMoE lanes whose claims a lane model decides (scope `retriever`)."""

import pytest
import torch

from errata.editing.lemoe.config import LemoeConfig
from errata.editing.model.causal_lm import CausalLM
from errata.errors import ArtifactCorruptError, PreconditionError
from tests.unit.editing import recipe_models
from tests.unit.editing.lemoe_models import FACTS, OTHERS, SMALL, Lane, new_lane
from tests.unit.editing.tiny_models import TextResources


def test_scope_retriever_needs_a_lane_model(llama: CausalLM, resources: TextResources) -> None:
    lane = Lane(llama, SMALL.model_copy(update={"steps": 1}), resources)
    commit = lane.fit(*FACTS)
    state = new_lane(llama, LemoeConfig())
    with pytest.raises(PreconditionError, match="no lane model yet"):
        state.prepare(commit)


def test_the_learned_gate_of_a_recipe_lane_model_decides(
    llama: CausalLM, resources: TextResources
) -> None:
    config = SMALL.model_copy(update={"scope": "retriever", "threshold": None, "steps": 1})
    lane = Lane(llama, config, resources)
    lane.lane.prepare(recipe_models.model_commit(recipe_models.make_lane_model(llama))).apply()
    lane.edit(*FACTS)
    recipe = recipe_models.make_lane(llama)
    recipe_models.commit(recipe, *FACTS)
    prompts = [*(prompt for prompt, _ in FACTS), *OTHERS]
    expected = recipe.view().claims(prompts)
    assert lane.lane.view().claims(prompts) == expected


def test_a_new_lane_model_re_encodes_all_edits_and_experts_stay(
    llama: CausalLM, resources: TextResources
) -> None:
    config = SMALL.model_copy(update={"scope": "retriever", "threshold": None, "steps": 1})
    lane = Lane(llama, config, resources)
    lane.lane.prepare(recipe_models.model_commit(recipe_models.make_lane_model(llama))).apply()
    lane.edit(*FACTS)
    before = lane.lane.contents
    new = recipe_models.make_lane_model(llama, seed=4)
    edits = recipe_models.make_edits(*FACTS)
    repository = lane.lane.encode(new.to_artifact().to_bytes(), edits)
    names = tuple(edit.name for edit in edits)
    lane.lane.prepare(recipe_models.model_commit(new, names, repository, seq=5)).apply()
    after = lane.lane.contents
    assert after.experts == before.experts
    assert not torch.equal(after.repository.keys, before.repository.keys)
    with pytest.raises(ArtifactCorruptError, match="does not carry the 4 active edits"):
        lane.lane.prepare(recipe_models.model_commit(new, names[:2], repository, seq=6))
