"""ELDER and LEMoE lanes whose claims a lane model decides (scope `retriever`)."""

from __future__ import annotations

import pytest
import torch

from errata.editing.lane.contract import Lane
from errata.editing.model.causal_lm import CausalLM
from errata.errors import ArtifactCorruptError, PreconditionError
from tests.unit.editing import elder_models, lemoe_models, recipe_models
from tests.unit.editing.lanes import Bench, restored
from tests.unit.editing.tiny_models import TextResources

FACTS = lemoe_models.FACTS
GATED = {"scope": "retriever", "threshold": None, "steps": 1}
OWN_SCOPE = {"steps": 1}
methods = pytest.mark.parametrize("method", ["elder", "lemoe"])


def _bench(
    method: str, llm: CausalLM, resources: TextResources, config: dict[str, object]
) -> Bench[Lane]:
    lane: Lane
    if method == "elder":
        lane = elder_models.new_lane(llm, elder_models.SMALL.model_copy(update=config))
    else:
        lane = lemoe_models.new_lane(llm, lemoe_models.SMALL.model_copy(update=config))
    return Bench(llm, lane, resources)


@methods
def test_scope_retriever_needs_a_lane_model(
    method: str, llama: CausalLM, resources: TextResources
) -> None:
    commit = _bench(method, llama, resources, OWN_SCOPE).fit(*FACTS)
    with pytest.raises(PreconditionError, match="no lane model yet"):
        _bench(method, llama, resources, GATED).lane.prepare(commit)


@methods
def test_a_lane_without_lane_model_is_restored(
    method: str, llama: CausalLM, resources: TextResources
) -> None:
    """A snapshot can be older than the lane's first model."""
    lane = _bench(method, llama, resources, GATED).lane
    other = _bench(method, llama, resources, GATED).lane
    restored(lane, other)
    assert other.digest() == lane.digest()
    other.prepare(recipe_models.model_commit(recipe_models.make_lane_model(llama))).apply()
    assert other.digest() != lane.digest()


@methods
def test_the_learned_gate_of_a_recipe_lane_model_decides(
    method: str, llama: CausalLM, resources: TextResources
) -> None:
    bench = _bench(method, llama, resources, GATED)
    bench.lane.prepare(recipe_models.model_commit(recipe_models.make_lane_model(llama))).apply()
    bench.edit(*FACTS)
    recipe = recipe_models.make_lane(llama)
    recipe_models.commit(recipe, *FACTS)
    prompts = [*(prompt for prompt, _ in FACTS), *lemoe_models.OTHERS]
    assert bench.lane.view().claims(prompts) == recipe.view().claims(prompts)


@methods
def test_a_new_lane_model_re_encodes_all_edits_and_experts_stay(
    method: str, llama: CausalLM, resources: TextResources
) -> None:
    bench = _bench(method, llama, resources, GATED)
    bench.lane.prepare(recipe_models.model_commit(recipe_models.make_lane_model(llama))).apply()
    bench.edit(*FACTS)
    before = bench.lane.dump()().contents
    new = recipe_models.make_lane_model(llama, seed=4)
    edits = recipe_models.make_edits(*FACTS)
    repository = bench.lane.encode(new.to_artifact().to_bytes(), edits)
    names = tuple(edit.name for edit in edits)
    bench.lane.prepare(recipe_models.model_commit(new, names, repository, seq=5)).apply()
    after = bench.lane.dump()().contents
    assert before is not None
    assert after is not None
    old, new_tensors = before.artifact.tensors, after.artifact.tensors
    assert [n for n in old if not torch.equal(old[n], new_tensors[n])] == ["keys"]
    with pytest.raises(ArtifactCorruptError, match="does not carry the 4 active edits"):
        bench.lane.prepare(recipe_models.model_commit(new, names[:2], repository, seq=6))
