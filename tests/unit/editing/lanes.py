"""A lane of one replica that is writer, too; whatever its method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

from errata.editing import adaple
from errata.editing.adaple.memory import AdapleMemory
from errata.editing.adaple.state import AdapleState
from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.effects.plan import RowPlan
from errata.editing.lane.claims import RoutingView
from errata.editing.lane.commits import Commit
from errata.editing.lane.contract import LaneConfig, Method
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.model.weights import EditedWeights
from errata.engine import offline
from tests.unit.editing.tiny_models import TextResources

S = TypeVar("S")
M = TypeVar("M")


def check_mixed_batch(
    llm: CausalLM, view: RoutingView, claimed: Sequence[str], others: Sequence[str]
) -> None:
    """One padded batch of claimed rows and others: each is answered as if it were alone in it.

    To the bit, for the shapes are the same; what no edit claims is answered by the base model.
    """
    prompts = [claimed[0], others[0], *claimed[1:], *others[1:]]
    rows, asked = [tokenise(llm, prompt).ids for prompt in prompts], [(5, 6)] * len(prompts)
    plans = view.plans(view.claims(prompts))
    assert [bool(plan.edits) for plan in plans] == [prompt in claimed for prompt in prompts]
    mixed, _ = offline.score(llm, rows, asked, plans)
    unedited, _ = offline.score(llm, rows, asked, None)
    for number, plan in enumerate(plans):
        only = [plan if other == number else RowPlan() for other in range(len(plans))]
        assert mixed[number] == offline.score(llm, rows, asked, only)[0][number]
        assert (mixed[number] == unedited[number]) is not bool(plan.edits)


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


class AdapleLane(Lane[AdapleState, AdapleMemory]):
    """An AdaPLE lane."""

    method: ClassVar[Method] = adaple.METHOD
