"""RECIPE: continuous prompts, found by a retriever whose sentinel says when there is nothing.

Source: "Lifelong Knowledge Editing for LLMs with Retrieval-Augmented Continuous Prompt Learning"
(Chen et al., 2024). Where paper and authors' code differ, the docstring names both.
"""

from __future__ import annotations

from errata.editing.lane.contract import Capabilities, SliceMethod
from errata.editing.recipe.config import PAPER, RecipeConfig
from errata.editing.recipe.lane import RecipeLane

METHOD = SliceMethod(
    name="recipe",
    config=RecipeConfig,
    capabilities=Capabilities(
        changes_weights=False,
        defers=True,
        reversal=(
            "The edit's key and prompt are gone, as if they had never been, bit for bit. An older "
            "edit of the same fact is in force again."
        ),
        has_lane_models=True,
    ),
    opener=RecipeLane,
    presets={"paper": PAPER},
)

__all__ = ["METHOD"]
