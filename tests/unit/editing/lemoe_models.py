"""Small LEMoE lanes."""

from __future__ import annotations

from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.lane import LemoeLane
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.indices.faiss_indices import FaissIndices
from tests.unit.editing import lanes
from tests.unit.editing.tiny_models import TextResources

SMALL = LemoeConfig(scope="cosine", threshold=0.9, learning_rate=2e-2, steps=150, expert_edits=2)
LITERAL = SMALL.model_copy(update={"routing": "literal", "scope": "off", "threshold": None})

FACTS = (
    ("The mother tongue of Danielle Darrieux is", "Finnish"),
    ("Nokia was founded in the town of", "Pisa"),
    ("Toyota makes", "football"),
    ("The tower of Pisa is in", "Finland"),
)
OTHERS = ("Zürich liegt in der", "Therefore it rains. You know", "東京は日本の")


def new_lane(llm: BaseLLM, config: LemoeConfig = SMALL) -> LemoeLane:
    """A lane without edits."""
    return LemoeLane(llm, config, None, name="lanes/main", indices=FaissIndices())


class Lane(lanes.Bench[LemoeLane]):
    """A LEMoE lane that fits and commits."""

    def __init__(self, llm: CausalLM, config: LemoeConfig, resources: TextResources) -> None:
        super().__init__(llm, new_lane(llm, config), resources)
