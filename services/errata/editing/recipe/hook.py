"""How a claimed row changes the forward pass: its continuous prompt stands before the prompt.

The engine's own prefix rows do the rest (`editing.plan`, `editing.hooks`): positions are shifted by
l, rows of different lengths are padded and masked, and rows without a claim stay untouched.
"""

from __future__ import annotations

from collections.abc import Sequence

from errata.editing.plan import BASE, Prefix, RowPlan
from errata.editing.recipe.route import Claim, route
from errata.editing.recipe.state import Holdings, RecipeState
from errata.editing.search import Indices


def plans(held: Holdings, claims: Sequence[Claim]) -> list[RowPlan]:
    """What each row gets: LLM input = [p_j; embed(q)] where an edit claims q, else q alone."""
    after = held.model.shape.after
    prompts = held.repository.prompts
    return [
        RowPlan(prefix=Prefix(prompts[claim.row], after), edits=(claim.edit,))
        if claim.holds
        else BASE
        for claim in claims
    ]


class RecipeRouter:
    """Routes the prompts of one lane."""

    def __init__(self, state: RecipeState, indices: Indices) -> None:
        """Goes by what `state` holds when it is asked."""
        self._state, self._index = state, indices.inner_product()

    def plans(self, prompts: Sequence[str]) -> list[RowPlan]:
        """What each prompt gets."""
        if not self._state.has_model:
            return [BASE] * len(prompts)
        return plans(self._state.holdings, route(self._state, self._index, prompts))
