"""A lane of any method, in a process that is writer and replica."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Generic, TypeVar

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.lane import AdapleLane
from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.effects.plan import RowPlan
from errata.editing.lane.claims import RoutingView
from errata.editing.lane.commits import Commit, LaneDump, Restoration, Reversal
from errata.editing.lane.contract import Lane
from errata.editing.lane.pages import LaneTable, cut, join
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.model.weights import EditedWeights, Undo
from errata.engine import offline
from errata.indices.faiss_indices import FaissIndices
from tests.unit.editing.tiny_models import TextResources

L = TypeVar("L", bound=Lane)


def check_mixed_batch(
    llm: CausalLM, view: RoutingView, claimed: Sequence[str], others: Sequence[str]
) -> None:
    """Checks one padded batch of claimed and other rows: no row depends on the others' plans.

    The shapes are the same, so the bits are too. Unclaimed rows equal the base model's.
    """
    prompts = [claimed[0], others[0], *claimed[1:], *others[1:]]
    rows, targets = [tokenise(llm, prompt).ids for prompt in prompts], [(5, 6)] * len(prompts)
    plans = view.plans(view.claims(prompts))
    assert [bool(plan.edits) for plan in plans] == [prompt in claimed for prompt in prompts]
    mixed, _ = offline.score(llm, rows, targets, plans)
    unedited, _ = offline.score(llm, rows, targets, None)
    for number, plan in enumerate(plans):
        single = [plan if other == number else RowPlan() for other in range(len(plans))]
        assert mixed[number] == offline.score(llm, rows, targets, single)[0][number]
        assert (mixed[number] == unedited[number]) is not bool(plan.edits)


def are_answered(llm: CausalLM, view: RoutingView, facts: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the edited model gives each target, token by token, in one mixed batch."""
    rows = [tokenise(llm, *fact) for fact in facts]
    targets = [row.ids[-row.num_target :] for row in rows]
    prompts = [row.ids[: -row.num_target] for row in rows]
    plans = view.plans(view.claims([prompt for prompt, _ in facts]))
    _, answers = offline.score(llm, prompts, targets, plans)
    return [tuple(a) == tuple(b) for a, b in zip(answers, targets, strict=True)]


class Bench(Generic[L]):
    """A lane that fits and commits, as in the writer.

    Attributes:
        lane: under test.
        commits: in order, with the writer's memory.
    """

    def __init__(self, llm: CausalLM, lane: L, resources: TextResources) -> None:
        self.llm, self.lane = llm, lane
        self.commits: list[Commit] = []
        lane.gather(resources)

    def fit(self, *facts: tuple[str, str], seed: int = 1, attempt: int = 0) -> Commit:
        """The commit that the writer would make, read back from its bytes."""
        seq = len(self.commits) + 2
        edits = tuple(
            Edit(f"edits/{seq}-{index}", prompt, target, prompt.split()[0])
            for index, (prompt, target) in enumerate(facts)
        )
        result = self.lane.fit(EditBatch(edits, seed, attempt))
        names = tuple(edit.name for edit in edits)
        memory = None if result.memory is None else Artifact.from_bytes(result.memory.to_bytes())
        return Commit(seq, names, Artifact.from_bytes(result.artifact.to_bytes()), memory)

    def edit(self, *facts: tuple[str, str], seed: int = 1) -> Commit:
        """Fits and commits."""
        commit = self.fit(*facts, seed=seed)
        self.lane.prepare(commit).apply()
        self.commits.append(commit)
        return commit

    def revert(self, *names: str) -> Undo:
        """Reverts edits."""
        return self.lane.prepare(Reversal(names)).apply()


def restored(
    lane: Lane,
    other: Lane,
    model: Artifact | None = None,
    namespaces: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Restores a lane's dump, read back from its bytes, in another lane."""
    dump = lane.dump()()
    copy = LaneDump(dump.model_digest, _stored(dump.contents), _stored(dump.memory))
    other.prepare(Restoration(9, copy, model, namespaces)).apply()


def _stored(table: LaneTable | None) -> LaneTable | None:
    """A table, read back from the bytes of its pages."""
    if table is None:
        return None
    return join([Artifact.from_bytes(page.to_bytes()) for page in cut(table)])


def adaple_bench(
    llm: CausalLM, config: AdapleConfig, resources: TextResources
) -> Bench[AdapleLane]:
    lane = AdapleLane(llm, config, EditedWeights(llm), name="lanes/main", indices=FaissIndices())
    return Bench(llm, lane, resources)
