"""A lane of one replica that is writer, too; whatever its method."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar, cast

from errata.editing.artifact import Artifact
from errata.editing.causal_lm import CausalLM
from errata.editing.edit import Edit, EditBatch
from errata.editing.method import Commit, LaneConfig, Method
from errata.editing.weights import EditedWeights
from tests.unit.editing.tiny_models import TextResources

S = TypeVar("S")
M = TypeVar("M")


class Lane(Generic[S, M]):
    """Fits and commits; `state` and `memory` are what the method makes."""

    method: ClassVar[Method]

    def __init__(self, llm: CausalLM, config: LaneConfig, resources: TextResources) -> None:
        self.llm, self.config = llm, config
        new_memory = self.method.new_memory
        self.state = cast(S, self.method.new_state(llm, config, EditedWeights(llm), "lanes/main"))
        self.memory = cast(M, new_memory(config) if new_memory is not None else None)
        self.statistics = self.method.prepare(llm, config, resources)
        self.commits: list[Commit] = []

    def fit(
        self, *facts: tuple[str, str], seed: int = 1, attempt: int = 0
    ) -> tuple[Commit, Artifact | None]:
        """What the writer would commit, read back from its bytes, and what it would remember."""
        seq = len(self.commits) + 2
        edits = tuple(
            Edit(f"edits/{seq}-{index}", prompt, target, prompt.split()[0])
            for index, (prompt, target) in enumerate(facts)
        )
        batch = EditBatch(edits, seed, attempt)
        made = self.method.fit(
            self.llm, batch, self.config, self.state, self.memory, self.statistics
        )
        names = tuple(edit.name for edit in edits)
        memory = None if made.memory is None else Artifact.from_bytes(made.memory.to_bytes())
        return Commit(seq, names, Artifact.from_bytes(made.artifact.to_bytes())), memory

    def edit(self, *facts: tuple[str, str], seed: int = 1) -> Commit:
        """Fits and commits."""
        commit, memory = self.fit(*facts, seed=seed)
        state: Any = self.state
        state.prepare_commit(commit)()
        if memory is not None:
            cast(Any, self.memory).add(commit.edits, memory)
        self.commits.append(commit)
        return commit
