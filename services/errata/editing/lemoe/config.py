"""Configuration of a LEMoE lane. Almost every option changes answers; all are in the log.

`PAPER` has the published values; docs/decisions/010-lemoe.md gives the reasons for our defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from errata.editing.lane.contract import check_layer
from errata.editing.lane.following import KeepsFollowing

Scope = Literal["off", "cosine", "idf", "retriever"]


class LemoeConfig(KeepsFollowing):
    """Configuration of a LEMoE lane.

    Attributes:
        layer: the layer whose FFN gets experts; None selects it by `depth_share`.
        depth_share: where the layer lies, as a share of the depth. Paper: 18 of LLaMA2-7B's 32.
        expert: `ffn` gives each expert its own up and down projections (paper); `lora` gives it
            low-rank updates of the frozen ones.
        rank: of `lora`.
        top_k: k, number of experts that a row passes through. Paper: 1.
        weight: λ, factor of the experts' sum. Paper: 1.
        routing: `anchored` (ours): the projection is frozen, a batch trains only its new expert,
            and gates are exactly 1. `literal` (paper): gates are raw softmax values over keys that
            drift with the projection. If a scope test names an edit, `anchored` selects the expert
            that learned it, otherwise the one with the nearest anchor.
        projection_width: d_p; None selects a quarter of d.
        scope: test of whether an edit claims a prompt: `off`, none, every prompt passes through an
            expert (paper); `cosine` of mean input embeddings; `idf`, the same, weighted by inverse
            document frequency; `retriever`, retriever and sentinel of a RECIPE lane model.
        threshold: of `cosine` and `idf`; None calibrates it.
        false_claims: share of held-out texts that a calibrated scope test may claim.
        steps: maximum number of planned optimiser steps of a batch.
        extra_steps: maximum number of further steps, until all edits are said: each prompt, and
            each rephrase that came with an edit, gives its target a probability above one half.
            Ours.
        batch_rows: texts per step.
        learning_rate: of AdamW. Paper: 2e-4.
        stop_loss: planned steps end after a pass in which the mean NLL of every text of the edits,
            and of `stop_share` of all texts, is below this; 0 never stops early.
        stop_share: share of all texts; 1 requires each of them, those that the lane made included.
        num_contexts: number of texts, drawn from the statistics text, that each prompt is also
            trained after.
        num_rephrases: number of rephrasings that each prompt is also trained with, from the lane
            model's phrasings of facts of its relation (`editing.retriever.frames`); none without
            a lane model. Ours.
        num_questions: maximum number of English questions about the subject that each edit is also
            trained with (`editing.retriever.questions`), unless its expert has another edit of the
            subject, or its target is a long sentence. Ours.
        max_experts: maximum number of experts; further fits fail. Paper: 5.
        expert_edits: maximum number of edits per expert. Paper: 20 and 200.
        order: how pending edits are grouped for experts: by similarity (`kmeans`, paper;
            `hierarchical`), or in log order (`log`).
        max_resident: maximum number of experts on a replica's device, the most recently used ones;
            the others are in host memory. Changes no answer.
        max_wait_seconds: how long an edit may wait until a batch is full.
    """

    layer: int | None = Field(default=None, ge=0)
    depth_share: float = Field(default=0.75, ge=0.0, lt=1.0)
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
    extra_steps: int = Field(default=0, ge=0, le=10_000)
    batch_rows: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0.0)
    stop_loss: float = Field(default=0.05, ge=0.0)
    stop_share: float = Field(default=1.0, gt=0.0, le=1.0)
    num_contexts: int = Field(default=3, ge=0, le=64)
    num_rephrases: int = Field(default=8, ge=0, le=64)
    num_questions: int = Field(default=0, ge=0, le=16)
    max_experts: int = Field(default=64, ge=1)
    expert_edits: int = Field(default=200, ge=1)
    order: Literal["kmeans", "hierarchical", "log"] = "kmeans"
    max_resident: int = Field(default=16, ge=1)
    max_wait_seconds: float = Field(default=5.0, ge=0.0)

    @property
    def needs_lane_model(self) -> bool:
        """Whether a lane model decides which edits claim a prompt."""
        return self.scope == "retriever"

    @property
    def expert_of_edit(self) -> bool:
        """Whether the claiming edit alone names the expert that answers."""
        return self.routing == "anchored" and self.scope != "off"

    @property
    def takes_one_namespace(self) -> bool:
        """True if all experts answer together."""
        return not self.expert_of_edit

    @property
    def takes_gate(self) -> bool:
        """True if it needs a lane model: only the gate in it is used."""
        return self.needs_lane_model

    @model_validator(mode="after")
    def _consistent(self) -> LemoeConfig:
        if self.top_k > self.max_experts:
            raise ValueError(f"top_k must be at most max_experts, which is {self.max_experts}")
        if self.top_k > 1 and self.routing == "anchored" and self.scope != "off":
            raise ValueError("top_k must be 1 with a scope test: the claiming edit has one expert")
        if self.num_questions and self.scope == "off":
            raise ValueError(
                "num_questions needs a scope test: without one, an expert would answer every "
                "question about a subject with the target"
            )
        if self.threshold is not None and self.scope not in ("cosine", "idf"):
            raise ValueError("threshold belongs to scopes 'cosine' and 'idf'")
        return self

    def resolve_layer(self, depth: int) -> int:
        """The layer that gets experts, in a model with `depth` blocks.

        Raises:
            InvalidRequestError: the configured layer does not exist.
        """
        if self.layer is None:
            return int(self.depth_share * depth)
        check_layer(self.layer, depth, "config.layer")
        return self.layer

    @property
    def remedy(self) -> str:
        """What to do about a lane that is full, or nearly full."""
        new_lane = "open a new lane with a higher max_experts"
        return new_lane if self.routing == "literal" else f"compact it, or {new_lane}"


PAPER: Mapping[str, Any] = {
    "depth_share": 18 / 32,
    "routing": "literal",
    "scope": "off",
    "learning_rate": 2e-4,
    "num_contexts": 0,
    "num_rephrases": 0,
    "num_following": 0,
    "max_experts": 5,
}
"""Values of the published configuration that differ from the defaults."""

FOLLOWING: Mapping[str, Any] = {"num_following": 3}
"""What new lanes without a scope test have, and what all new lanes had in an earlier version."""

QUESTIONS: Mapping[str, Any] = {
    **FOLLOWING,
    "steps": 250,
    "num_contexts": 1,
    "num_rephrases": 4,
    "num_questions": 12,
    "stop_share": 0.95,
}
"""What new lanes had in an earlier version.

Three passes over the texts of a full expert, for which 200 steps suffice, leave .007 of its edits
unlearned.
"""

ALL_SAID: Mapping[str, Any] = {**QUESTIONS, "extra_steps": 64}
"""What new lanes have; the configuration's own defaults are those of lanes made before it."""


def new_lane(values: Mapping[str, object]) -> Mapping[str, object]:
    """The defaults of a new lane to which its operator gives `values`."""
    return FOLLOWING if values.get("scope") == "off" else ALL_SAID


def lane_before_all_said(values: Mapping[str, object]) -> Mapping[str, object]:
    """What `new_lane` was in the version before."""
    return FOLLOWING if values.get("scope") == "off" else QUESTIONS


def lane_before_questions(values: Mapping[str, object]) -> Mapping[str, object]:
    """What `new_lane` was in the version before that one."""
    return FOLLOWING
