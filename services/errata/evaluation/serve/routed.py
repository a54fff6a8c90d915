"""The engine with a RECIPE lane: thousands of edits in force, retrieval in the engine's own thread.

Keys and prompts are random, for only time is measured; encoder, MLPs and widths are the lane
model's own. All rows are claimed, or none, by a threshold that every score or no score is above.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from errata.editing.artifact import Artifact
from errata.editing.causal_lm import CausalLM
from errata.editing.inventory import fact_of
from errata.editing.method import Commit, LaneModelCommit
from errata.editing.plan import RowPlan
from errata.editing.recipe.config import RecipeConfig
from errata.editing.recipe.hook import RecipeRouter
from errata.editing.recipe.lane_model import read_bytes
from errata.editing.recipe.state import RecipeState, pack
from errata.editing.repository import Rows
from errata.engine.sequence import Edition, Request, Route, Version
from errata.retrieval.index import FaissIndices


def routed_edition(
    model: CausalLM, lane_model: Path, num_edits: int, *, claimed: bool, seed: int = 0
) -> Edition:
    """What requests are admitted under while a RECIPE lane has so many edits in force.

    Args:
        model: the LLM.
        lane_model: folder of a lane model for it.
        num_edits: random ones.
        claimed: whether an edit claims every row, or none any.
        seed: of keys and prompts.

    Raises:
        ModelNotFoundError, BaseModelMismatchError, ArtifactCorruptError: about the lane model.
    """
    config = RecipeConfig(claim="threshold", threshold=-1.0 if claimed else 1.0)
    state = RecipeState(model, config, None, "lanes/facts")
    data = read_bytes(lane_model)
    digest = hashlib.sha256(data).hexdigest()
    state.prepare_model(LaneModelCommit(1, Artifact.from_bytes(data), digest, (), None))()
    shape = state.holdings.model.shape
    generator = torch.Generator().manual_seed(seed)
    names = tuple(f"edits/2-{number}" for number in range(num_edits))
    rows = Rows(
        names,
        tuple(map(fact_of, names)),
        torch.randn(num_edits, shape.d_r, generator=generator),
        0.02 * torch.randn(num_edits, shape.num_prompt, shape.d, generator=generator),
    )
    state.prepare_commit(Commit(2, names, pack(digest, model.digest, rows)))()
    return Edition(Version(2, bytes(32), state.digest(), num_edits), route=_route(state))


def _route(state: RecipeState) -> Route:
    view = RecipeRouter(state, FaissIndices()).view()

    def route(requests: Sequence[Request]) -> list[RowPlan]:
        return view.plans(view.claims([request.prompt for request in requests]))

    return route
