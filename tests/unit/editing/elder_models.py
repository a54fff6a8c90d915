"""Small ELDER lanes, with experts whose B is not 0 where a test needs an effect."""

from __future__ import annotations

import torch

from errata.editing.artifact import Artifact
from errata.editing.causal_lm import CausalLM
from errata.editing.edit import Edit, EditBatch
from errata.editing.elder import METHOD
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Experts, Shape
from errata.editing.elder.memory import ElderMemory
from errata.editing.elder.state import ElderState
from errata.editing.method import Commit
from errata.editing.weights import EditedWeights
from tests.unit.editing.tiny_models import TextResources

SMALL = ElderConfig(
    num_layers=2,
    num_experts=4,
    rank=4,
    scope="cosine",
    threshold=0.95,
    learning_rate=1e-2,
    steps=100,
)

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
"""The paper's rule, in a space of codes so wide that a prompt has hardly another's code."""


def make_experts(llm: CausalLM, config: ElderConfig = SMALL, seed: int = 0) -> Experts:
    """Random ones, B included; no gradients."""
    experts = Experts.new(Shape.of(llm, config), config.init, seed)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        experts.lora_b.copy_(torch.randn(experts.lora_b.shape, generator=rng))
    return experts.requires_grad_(False)


class Lane:
    """A lane of one replica that is writer, too."""

    def __init__(self, llm: CausalLM, config: ElderConfig, resources: TextResources) -> None:
        self.llm, self.config = llm, config
        self.state = ElderState(llm, config, EditedWeights(llm), "lanes/main")
        self.memory = ElderMemory(config)
        self.statistics = METHOD.prepare(llm, config, resources)
        self.commits: list[Commit] = []

    def fit(
        self, *facts: tuple[str, str], seed: int = 1, attempt: int = 0
    ) -> tuple[Commit, Artifact]:
        """What the writer would commit, read back from its bytes, and what it would remember."""
        seq = len(self.commits) + 2
        edits = tuple(
            Edit(f"edits/{seq}-{index}", prompt, target, prompt.split()[0])
            for index, (prompt, target) in enumerate(facts)
        )
        batch = EditBatch(edits, seed, attempt)
        made = METHOD.fit(self.llm, batch, self.config, self.state, self.memory, self.statistics)
        assert made.memory is not None
        names = tuple(edit.name for edit in edits)
        artifact = Artifact.from_bytes(made.artifact.to_bytes())
        return Commit(seq, names, artifact), Artifact.from_bytes(made.memory.to_bytes())

    def edit(self, *facts: tuple[str, str], seed: int = 1) -> Commit:
        """Fits and commits."""
        commit, memory = self.fit(*facts, seed=seed)
        self.state.prepare_commit(commit)()
        self.memory.add(commit.edits, memory)
        self.commits.append(commit)
        return commit
