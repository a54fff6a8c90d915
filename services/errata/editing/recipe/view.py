"""How a claimed row changes the forward pass: the edit's continuous prompt precedes the row's.

The engine's prefix rows do the rest (`editing.effects`): positions are shifted by l, rows of
different lengths are padded and masked, and rows without a claim stay unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.effects.prefix import Prefix
from errata.editing.lane.claims import NO_CLAIM, Claim
from errata.editing.lane.search import InnerProductIndex
from errata.editing.namespaces import Readings
from errata.editing.recipe.config import RecipeConfig
from errata.editing.retriever.gated_lane import GatedContents


@dataclass(frozen=True, eq=False, slots=True)
class RecipeView:
    """Routes by the contents that a lane had when the view was created.

    Attributes:
        contents: of the lane.
        config: of the lane.
        index: shared with the lane's other views.
    """

    contents: GatedContents
    config: RecipeConfig
    index: InnerProductIndex

    @property
    def vector_view(self) -> None:
        """None, because texts decide."""

    def claims(self, prompts: Sequence[str], readings: Readings = None) -> list[Claim]:
        """Which edit claims each prompt; none does without a lane model."""
        gate, inventory = self.contents.gate, self.contents.inventory
        if gate is None:
            return [NO_CLAIM] * len(prompts)
        return gate.claims(inventory, self.index, prompts, readings, self.config.rule)

    def plans(self, claims: Sequence[Claim]) -> list[RowPlan]:
        """LLM input = [p_j; embed(q)] where an edit claims q, else q alone."""
        return [self._plan(claim) for claim in claims]

    def _plan(self, claim: Claim) -> RowPlan:
        gate = self.contents.gate
        if gate is None or not claim.holds:
            return RowPlan(cut=True) if claim.cut else BASE
        shape = gate.lane_model().shape
        embeddings, *deep = self.contents.inventory.value_of(claim.edit)
        prefix = Prefix(embeddings, shape.after, dict(zip(shape.deep, deep, strict=True)))
        return RowPlan((prefix,), (claim.edit,), claim.cut)
