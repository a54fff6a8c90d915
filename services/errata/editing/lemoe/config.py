"""Every knob of a LEMoE lane; all of them change answers, so all travel in the log.

`PAPER` has the published settings, word for word; the defaults are ours, for the reasons in
docs/decisions/010-lemoe.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from errata.editing.lane.contract import LaneConfig, check_layer

Scope = Literal["off", "cosine", "idf", "retriever"]


class LemoeConfig(LaneConfig):
    """Configuration of a LEMoE lane.

    Attributes:
        layer: whose FFN gets experts beside it; None takes the one at three quarters of the depth.
            Paper: 18 of LLaMA2-7B's 32.
        expert: up and down projections of their own (`ffn`, paper), or low-rank changes of the
            frozen ones (`lora`).
        rank: of `lora`.
        top_k: k, how many experts answer a row. Paper: 1.
        weight: λ of their sum. Paper: 1.
        routing: a frozen projection, training forced to the new expert, gates of exactly 1
            (`anchored`, ours); or as published (`literal`): raw softmax values over keys that drift
            with the projection. Where a scope test names an edit, `anchored` goes to the expert
            that learned it, else to the nearest anchor.
        projection_width: d_p; None takes a quarter of d.
        scope: what decides whether an edit claims a prompt: nothing, so that all go through an
            expert (`off`, paper), cosine of mean input embeddings, the same weighted by inverse
            document frequency, or the learned retriever and sentinel of a RECIPE lane model.
        threshold: of `cosine` and `idf`; None calibrates it.
        false_claims: share of held-out texts that a calibrated scope test may claim.
        steps: most optimiser steps of a batch.
        batch_rows: texts of a step.
        learning_rate: of AdamW. Paper: 2e-4.
        stop_loss: a batch is done when no text of a pass over them has a mean NLL above; 0 never
            stops.
        num_contexts: texts that each prompt is also learned behind, drawn from the statistics text.
        num_rephrases: further rephrasings of each prompt, as the lane model has seen facts of its
            relation asked (`editing.retriever.frames`); none without a lane model. Ours.
        max_experts: of the lane; more are refused. Paper: 5.
        expert_edits: edits that one expert learns, at most. Paper: 20 and 200.
        order: which pending edits one expert gets: like ones (`kmeans`, paper; `hierarchical`), or
            those that came first (`log`).
        max_resident: experts that a replica keeps on its device, those that were used last; the
            others wait in host memory. Changes no answer.
        max_wait_seconds: how long an edit may wait for an expert to be filled.
    """

    layer: int | None = Field(default=None, ge=0)
    expert: Literal["ffn", "lora"] = "ffn"
    rank: int = Field(default=16, ge=1)
    top_k: int = Field(default=1, ge=1)
    weight: float = Field(default=1.0, gt=0.0)
    routing: Literal["anchored", "literal"] = "anchored"
    projection_width: int | None = Field(default=None, ge=1)
    scope: Scope = "retriever"
    threshold: float | None = Field(default=None, ge=-1.0, le=1.0)
    false_claims: float = Field(default=0.02, ge=0.0, lt=1.0)
    steps: int = Field(default=200, ge=1, le=10_000)
    batch_rows: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0.0)
    stop_loss: float = Field(default=0.05, ge=0.0)
    num_contexts: int = Field(default=3, ge=0, le=64)
    num_rephrases: int = Field(default=8, ge=0, le=64)
    max_experts: int = Field(default=64, ge=1)
    expert_edits: int = Field(default=200, ge=1)
    order: Literal["kmeans", "hierarchical", "log"] = "kmeans"
    max_resident: int = Field(default=16, ge=1)
    max_wait_seconds: float = Field(default=5.0, ge=0.0)

    @property
    def needs_lane_model(self) -> bool:
        """True if a lane model decides claims."""
        return self.scope == "retriever"

    @model_validator(mode="after")
    def _consistent(self) -> LemoeConfig:
        if self.top_k > self.max_experts:
            raise ValueError(f"top_k must be at most max_experts, which is {self.max_experts}")
        if self.top_k > 1 and self.routing == "anchored" and self.scope != "off":
            raise ValueError("with a scope test the claiming edit names its one expert: top_k is 1")
        if self.threshold is not None and self.scope not in ("cosine", "idf"):
            raise ValueError("threshold belongs to scopes 'cosine' and 'idf'")
        return self

    def resolve_layer(self, depth: int) -> int:
        """The layer that gets experts, in a model with `depth` blocks.

        Raises:
            InvalidRequestError: a named layer does not exist.
        """
        if self.layer is None:
            return 3 * depth // 4
        check_layer(self.layer, depth, "config.layer")
        return self.layer

    @property
    def way_out(self) -> str:
        """What helps a lane that is full, or nearly so."""
        wider = "open a new lane with a higher max_experts"
        return wider if self.routing == "literal" else f"compact it, or {wider}"


PAPER: Mapping[str, Any] = {
    "routing": "literal",
    "scope": "off",
    "learning_rate": 2e-4,
    "num_contexts": 0,
    "num_rephrases": 0,
    "max_experts": 5,
}
"""Values of the published configuration that differ from the defaults."""
