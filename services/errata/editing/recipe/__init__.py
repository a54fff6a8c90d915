"""RECIPE: continuous prompts, found by a retriever whose sentinel decides when no edit applies.

Source: "Lifelong Knowledge Editing for LLMs with Retrieval-Augmented Continuous Prompt Learning"
(Chen et al., 2024). Where the paper and the authors' code differ, the docstring names both.
"""

from __future__ import annotations

from errata.editing.lane.contract import Capabilities
from errata.editing.lane.method import SliceMethod
from errata.editing.recipe.config import PAPER, REFINED, RecipeConfig
from errata.editing.recipe.lane import RecipeLane
from errata.editing.recipe.needs import needs

METHOD = SliceMethod(
    name="recipe",
    config=RecipeConfig,
    capabilities=Capabilities(
        changes_weights=False,
        defers=True,
        reversal=(
            "The edit's key and prompt are removed, bit for bit as if they had never existed. An "
            "older edit of the same fact is active again."
        ),
        has_lane_models=True,
    ),
    opener=RecipeLane,
    planner=needs,
    presets={"paper": PAPER},
    defaults=lambda values: REFINED,
)

__all__ = ["METHOD"]
