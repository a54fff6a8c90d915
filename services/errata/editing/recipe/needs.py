"""What a RECIPE lane needs: the lane model, and a key and a continuous prompt for every edit."""

from __future__ import annotations

import math

from errata.editing.lane.needs import (
    FP32,
    EditLoad,
    LaneNeeds,
    Need,
    Searched,
    Work,
    header_store,
    repository_needs,
    row_store,
)
from errata.editing.model.shape import ModelShape
from errata.editing.recipe.config import RecipeConfig
from errata.editing.recipe.refine import REFINED_AT_ONCE
from errata.editing.retriever.needs import GateNeeds

_HEADER_BYTES = 600


def needs(model: ModelShape, config: RecipeConfig, load: EditLoad) -> LaneNeeds:
    """The needs of a lane (symbols: `editing.lane.needs`); a value has v = S·l·d numbers.

    S − 1 layers are deep, and l is the length of a continuous prompt, as the lane model has them.
    """
    gate, batch = GateNeeds.of(model, load.lane_model), load.batch_edits
    numbers = math.prod(gate.lane_model().prompt_size)
    rows = repository_needs(load, batch, gate.sizes.d_r, numbers)
    return LaneNeeds(
        replica=(*gate.replica(), *rows),
        writer=(*gate.writer(load), *_refinement(model, gate, config, load)),
        retrieval=(*gate.replica(), *rows),
        effects=(
            Need(
                "prompts of running rows",
                load.rows * numbers * model.element_bytes,
                "rows·S·l·d·b",
            ),
        ),
        store=(
            gate.store(),
            row_store(load, gate.sizes.d_r, numbers),
            header_store(load.num_commits(batch), _HEADER_BYTES),
        ),
        batch=batch,
        searched=Searched(load.num_edits, gate.sizes.d_r),
        work=(
            *gate.request(load),
            Work(
                "positions of a claimed prompt",
                2 * model.num_block_parameters * gate.lane_model().num_prompt,
                "2·P_blocks·l",
            ),
        ),
    )


def _refinement(
    model: ModelShape, gate: GateNeeds, config: RecipeConfig, load: EditLoad
) -> list[Need]:
    """Gradient steps: prompts with Adam's moments, and activations of all blocks."""
    wordings = max(load.num_rephrases, config.num_rephrases)
    tokens = load.text_tokens + gate.lane_model().num_prompt
    rows = 1 + wordings + config.num_contexts
    edits = max(1, min(load.batch_edits, REFINED_AT_ONCE // (rows * tokens)))
    numbers = edits * math.prod(gate.lane_model().prompt_size)
    logits = edits * rows * load.target_tokens * model.num_embeddings
    return [
        Need("refined prompts", 5 * numbers * FP32, "5·e·S·l·d·4, e edits at once", during="fit"),
        Need(
            "refinement's activations",
            model.saved_bytes(edits * rows, tokens, 0) + logits * (model.element_bytes + 2 * FP32),
            "kept by all blocks for e·(1 + wordings + contexts) ≤ 2,048 / (T + l) rows of T + l "
            "tokens, and their logits",
            during="fit",
            is_estimate=True,
        ),
    ]
