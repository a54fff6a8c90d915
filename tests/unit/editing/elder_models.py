"""Small ELDER lanes, with experts whose B is not 0 where a test needs an effect."""

from __future__ import annotations

import torch

from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Experts, Shape
from errata.editing.elder.lane import ElderLane
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.indices.faiss_indices import FaissIndices
from tests.unit.editing import lanes
from tests.unit.editing.tiny_models import TextResources

SMALL = ElderConfig(
    num_layers=2,
    num_experts=4,
    rank=4,
    scope="cosine",
    threshold=0.95,
    num_contexts=1,
    prompt_share=0.8,
    learning_rate=1e-2,
    steps=100,
    bank_edits=0,
)

BANKS = SMALL.model_copy(update={"bank_edits": 2})
"""Every two edits start a new bank."""

CODES = SMALL.model_copy(
    update={
        "scope": "codes",
        "threshold": None,
        "epsilon": 1,
        "gates": "row",
        "num_layers": 3,
        "num_experts": 8,
    }
)
"""The paper's rule, with so many codes that two prompts rarely share one."""


def make_experts(llm: CausalLM, config: ElderConfig = SMALL, seed: int = 0) -> Experts:
    """Random experts, including B; no gradients."""
    experts = Experts.new(Shape.of(llm, config), config.init, seed)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        experts.lora_b.copy_(torch.randn(experts.lora_b.shape, generator=rng))
    return experts.requires_grad_(False)


def new_lane(llm: BaseLLM, config: ElderConfig = SMALL) -> ElderLane:
    """A lane without edits."""
    return ElderLane(llm, config, None, name="lanes/main", indices=FaissIndices())


class Lane(lanes.Bench[ElderLane]):
    """An ELDER lane that fits and commits."""

    def __init__(self, llm: CausalLM, config: ElderConfig, resources: TextResources) -> None:
        super().__init__(llm, new_lane(llm, config), resources)
