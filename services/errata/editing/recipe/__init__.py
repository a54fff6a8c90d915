"""RECIPE: continuous prompts, found by a retriever whose sentinel says when there is nothing.

Source: "Lifelong Knowledge Editing for LLMs with Retrieval-Augmented Continuous Prompt Learning"
(Chen et al., 2024). Where paper and authors' code differ, the docstring names both.
"""

from __future__ import annotations

from errata.editing.lane.contract import Capabilities, LaneModelSupport, Method
from errata.editing.recipe.config import PAPER, RecipeConfig
from errata.editing.recipe.fit import encode_all, fit, prepare
from errata.editing.recipe.state import RecipeState
from errata.editing.recipe.view import RecipeRouter
from errata.editing.retriever.lane_model import read_bytes

METHOD = Method(
    name="recipe",
    config=RecipeConfig,
    capabilities=Capabilities(
        changes_weights=False,
        defers=True,
        reversal=(
            "The edit's key and prompt are gone, as if they had never been, bit for bit. An older "
            "edit of the same fact is in force again."
        ),
    ),
    prepare=prepare,
    fit=fit,
    new_state=RecipeState,
    new_router=RecipeRouter,
    lane_model=LaneModelSupport(
        read=read_bytes,
        prepare=RecipeState.prepare_model,
        encode=encode_all,
        dump=RecipeState.dump,
        restore=RecipeState.restore,
    ),
    presets={"paper": PAPER},
)

__all__ = ["METHOD"]
