"""What all lanes that route share."""

from __future__ import annotations

import pytest
from torch import Tensor

from errata.editing.lane.contract import Lane
from errata.editing.lane.inventory import Addition
from errata.editing.model.causal_lm import CausalLM
from errata.errors import PreconditionError
from tests.unit.editing import elder_models, lemoe_models, recipe_models
from tests.unit.editing.tiny_models import TextResources

FACT = ("Toyota makes", "football")


def _lane(name: str, llm: CausalLM, resources: TextResources) -> Lane:
    if name == "recipe":
        return recipe_models.make_lane(llm)
    config = {"steps": 1}
    lane: Lane
    if name.startswith("elder"):
        small = elder_models.CODES if name == "elder, by codes" else elder_models.SMALL
        lane = elder_models.new_lane(llm, small.model_copy(update=config))
    else:
        lane = lemoe_models.new_lane(llm, lemoe_models.SMALL.model_copy(update=config))
    lane.gather(resources)
    return lane


@pytest.mark.parametrize(
    ("name", "num_copies"), [("recipe", 0), ("lemoe", 0), ("elder", 0), ("elder, by codes", 1)]
)
def test_a_commit_copies_the_stored_values_only_where_codes_are_made_of_them(
    name: str,
    num_copies: int,
    llama: CausalLM,
    resources: TextResources,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each commit would otherwise cost as much as the lane is large."""
    copies = []
    values = Addition.values.fget
    assert values is not None

    def counted(addition: Addition) -> Tensor:
        copies.append(1)
        found: Tensor = values(addition)
        return found

    monkeypatch.setattr(Addition, "values", property(counted))
    lane = _lane(name, llama, resources)
    lane.prepare(recipe_models.commit_of(lane, FACT)).apply()
    assert len(copies) == num_copies


@pytest.mark.parametrize("name", ["elder", "lemoe"])
def test_a_lane_that_gathered_nothing_cannot_fit(name: str, llama: CausalLM) -> None:
    lane = (elder_models if name == "elder" else lemoe_models).new_lane(llama)
    with pytest.raises(PreconditionError, match="call gather first"):
        recipe_models.commit_of(lane, FACT)
