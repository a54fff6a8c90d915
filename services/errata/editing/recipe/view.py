"""How a claimed row changes the forward pass: its continuous prompt stands before the prompt.

The engine's own prefix rows do the rest (`editing.effects`): positions are shifted by
l, rows of different lengths are padded and masked, and rows without a claim stay untouched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.effects.prefix import Prefix
from errata.editing.lane.contract import Claim
from errata.editing.lane.search import Indices, InnerProductIndex
from errata.editing.recipe.config import RecipeConfig
from errata.editing.recipe.state import RecipeState, Retriever
from errata.editing.retriever.sentinel import route

_NOTHING = Claim("", -math.inf, math.inf)


@dataclass(frozen=True, eq=False, slots=True)
class RecipeView:
    """Routes by what a lane held at one moment.

    Attributes:
        retriever: None if the lane had no model yet.
        config: of the lane.
        index: shared with the lane's other views.
    """

    retriever: Retriever | None
    config: RecipeConfig
    index: InnerProductIndex

    @property
    def vector_view(self) -> None:
        """Texts decide."""

    def claims(self, prompts: Sequence[str]) -> list[Claim]:
        """Which edit claims each prompt; none does without a lane model."""
        if self.retriever is None:
            return [_NOTHING] * len(prompts)
        return route(self.retriever, self.config, self.index, prompts)

    def plans(self, claims: Sequence[Claim]) -> list[RowPlan]:
        """LLM input = [p_j; embed(q)] where an edit claims q, else q alone."""
        return [self._plan(claim) for claim in claims]

    def _plan(self, claim: Claim) -> RowPlan:
        if self.retriever is None or not claim.holds:
            return RowPlan(cut=True) if claim.cut else BASE
        shape = self.retriever.model.shape
        embeddings, *added = self.retriever.repository.value_of(claim.edit)
        prefix = Prefix(embeddings, shape.after, dict(zip(shape.deep, added, strict=True)))
        return RowPlan((prefix,), (claim.edit,), claim.cut)


class RecipeRouter:
    """Routes the prompts of one lane."""

    def __init__(self, state: RecipeState, indices: Indices) -> None:
        """Makes the lane's index, which all views share."""
        self._state, self._index = state, indices.inner_product()

    def view(self) -> RecipeView:
        """By what the lane holds now."""
        state = self._state
        retriever = state.holdings.retriever if state.has_model else None
        return RecipeView(retriever, state.config, self._index)

    def resident(self) -> Mapping[str, int]:
        """Nothing: all that a lane holds stays where it is."""
        return {}
