"""Every knob of an ELDER lane; all of them change answers, so all travel in the log.

`PAPER` has the published settings, word for word; the defaults are ours, for the reasons in
docs/decisions/009-elder.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from errata.editing.lane.contract import LaneConfig, check_layer
from errata.errors import InvalidRequestError

Scope = Literal["codes", "cosine", "idf", "retriever"]


class ElderConfig(LaneConfig):
    """Configuration of an ELDER lane.

    Attributes:
        layers: adapted layers, ascending; empty takes `num_layers` of them (`resolve_layers`).
            Paper: 21–26 of LLaMA2-7B's 32, 36–40 of GPT2-XL's 48.
        num_layers: most layers that the automatic choice takes. Paper: 6.
        projection: whose LoRAs are mixed. Paper: `down` for Llama, `up` for GPT-2.
        num_experts: N, LoRAs of a layer. Paper: 4.
        top_k: k, how many of them a row goes through. Paper: 2.
        rank: r. Paper: 8.
        alpha: α of the factor α/r; None is r. Code: 8.
        init: A as the authors' code has it (`code`, U(±1/√r)), or as PEFT's LoRA by default
            (`peft`, Kaiming uniform, U(±1/√d_in)) or with its `gaussian` (N(0, 1/r²)), B being 0 in
            all of them; or both from PEFT adapters (`adapters`), one for each expert, that the
            lanes file names.
        query: what routers and codes go by, at the last prompt token: the hidden state that enters
            the first adapted layer (`hidden`), or the input of its adapted projection (`input`,
            code).
        gates: whose query weighs the LoRAs of a claimed row: the claiming edit's (`edit`, ours), so
            that a rephrasing is answered by the mixture that the edit was fitted with; or the row's
            own (`row`, paper).
        scope: what decides whether an edit claims a prompt: Hamming distance of allocation codes
            (`codes`, paper), cosine of queries, cosine of input embeddings weighted by inverse
            document frequency, or the learned retriever and sentinel of a RECIPE lane model.
        epsilon: ε of `codes`, a claim being a distance below it; None calibrates it. Paper: 12.
        threshold: of `cosine` and `idf`; None calibrates it.
        false_claims: share of held-out texts that a calibrated scope test may claim.
        loss: what steers routers beside the model's loss: guided allocation (`guided`, paper), load
            balancing (`balanced`, ablation), nothing.
        loss_weight: λ of that term. Paper: 0.01.
        steps: most optimiser steps of a batch. Code: 50.
        learning_rate: of Adam, which begins anew with each batch. Paper: 1e-4.
        stop_loss: a batch is done when no text of a step has a mean NLL above; 0 never stops.
        num_contexts: texts that each prompt is also learned behind, drawn from the statistics text.
        num_rephrases: further rephrasings of each prompt, as the lane model has seen facts of its
            relation asked (`editing.retriever.frames`); none without a lane model. Ours.
        prompt_share: how often a step takes an edit's bare prompt; else it takes one of its other
            texts, rephrasings that it brought and texts behind contexts.
        precision: `auto` computes products of a fit in bf16 where the machine is faster with it.
        replay: which earlier edits are fitted along: none (paper), a reservoir of `replay_budget`
            of them, or the whole log.
        replay_budget: edits of the reservoir.
        replay_pool: most earlier edits that one batch draws upon.
        replay_ratio: how many of them are in one step for each new edit, so that an edit costs the
            same in batches of any size.
        replay_rows: how many of them are in one step at most, and how many edits are in one step
            of a compaction.
    """

    layers: tuple[int, ...] = ()
    num_layers: int = Field(default=6, ge=1)
    projection: Literal["down", "up"] = "down"
    num_experts: int = Field(default=8, ge=1)
    top_k: int = Field(default=2, ge=1)
    rank: int = Field(default=32, ge=1)
    alpha: float | None = Field(default=None, gt=0.0)
    init: Literal["code", "peft", "gaussian", "adapters"] = "code"
    query: Literal["hidden", "input"] = "hidden"
    gates: Literal["edit", "row"] = "edit"
    scope: Scope = "retriever"
    epsilon: int | None = Field(default=None, ge=0)
    threshold: float | None = Field(default=None, ge=-1.0, le=1.0)
    false_claims: float = Field(default=0.02, ge=0.0, lt=1.0)
    loss: Literal["guided", "balanced", "none"] = "guided"
    loss_weight: float = Field(default=0.01, ge=0.0)
    steps: int = Field(default=24, ge=1, le=1000)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    stop_loss: float = Field(default=0.05, ge=0.0)
    num_contexts: int = Field(default=4, ge=0, le=64)
    num_rephrases: int = Field(default=8, ge=0, le=64)
    prompt_share: float = Field(default=0.4, gt=0.0, le=1.0)
    precision: Literal["auto", "fp32"] = "auto"
    replay: Literal["none", "reservoir", "all"] = "all"
    replay_budget: int = Field(default=256, ge=1)
    replay_pool: int = Field(default=192, ge=1)
    replay_ratio: float = Field(default=3.0, gt=0.0)
    replay_rows: int = Field(default=48, ge=1)

    @property
    def needs_lane_model(self) -> bool:
        """True if a lane model decides claims."""
        return self.scope == "retriever"

    @property
    def needs_initial_files(self) -> bool:
        """True if the experts start from PEFT adapters."""
        return self.init == "adapters"

    @model_validator(mode="after")
    def _consistent(self) -> ElderConfig:
        if list(self.layers) != sorted(set(self.layers)) or any(x < 0 for x in self.layers):
            raise ValueError("layers must be ascending, distinct and not negative")
        if self.epsilon == 0:
            raise ValueError("epsilon 0 claims nothing: a claim is a distance below it")
        if self.top_k >= self.num_experts:
            raise ValueError(
                f"top_k must be below num_experts, which is {self.num_experts}: there is one "
                "allocation else"
            )
        if self.gates == "row" and self.scope not in ("codes", "cosine"):
            raise ValueError("gates 'row' go by the query of scopes 'codes' and 'cosine'")
        if self.epsilon is not None and self.scope != "codes":
            raise ValueError("epsilon belongs to scope 'codes'")
        if self.threshold is not None and self.scope not in ("cosine", "idf"):
            raise ValueError("threshold belongs to scopes 'cosine' and 'idf'")
        return self

    @property
    def scale(self) -> float:
        """α/r."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def resolve_layers(self, depth: int) -> tuple[int, ...]:
        """The adapted layers of a model with `depth` blocks.

        The automatic choice ends at thirteen sixteenths of the depth, LLaMA2-7B's 26 of 32, or
        where there is room for the layers in shallower models; it takes at most all but the first.

        Raises:
            InvalidRequestError: a named layer does not exist.
        """
        if self.layers:
            check_layer(self.layers[-1], depth, "config.layers")
            return self.layers
        count = max(1, min(self.num_layers, depth - 1))
        last = min(max(math.ceil(13 * depth / 16), count), depth - 1)
        return tuple(range(last - count + 1, last + 1))

    def num_replayed(self, num_new: int) -> int:
        """Most earlier edits in one step; a compaction has none but them."""
        wanted = math.ceil(self.replay_ratio * num_new) if num_new else self.replay_rows
        return min(wanted, self.replay_rows)

    def check_epsilon(self, depth: int) -> None:
        """Refuses an ε that is above every distance that two codes can have.

        Raises:
            InvalidRequestError: about `epsilon`.
        """
        most = 2 * len(self.resolve_layers(depth)) * min(self.top_k, self.num_experts - self.top_k)
        if self.epsilon is not None and self.epsilon > most:
            raise InvalidRequestError(
                f"epsilon {self.epsilon} claims everything: codes of this lane differ in at most "
                f"{most} bits.",
                field="config.epsilon",
            )

    def check_rank(self, width: int) -> None:
        """Refuses a rank that no projection of this width can use.

        Raises:
            InvalidRequestError: about `rank`.
        """
        if self.rank > width:
            raise InvalidRequestError(
                f"rank {self.rank} is above the projection's smaller width, {width}.",
                field="config.rank",
            )


PAPER: Mapping[str, Any] = {
    "num_experts": 4,
    "top_k": 2,
    "rank": 8,
    "query": "input",
    "gates": "row",
    "scope": "codes",
    "epsilon": 12,
    "steps": 50,
    "learning_rate": 1e-4,
    "stop_loss": 0.0,
    "num_contexts": 0,
    "num_rephrases": 0,
    "precision": "fp32",
    "replay": "none",
}
"""Values of the published configuration that differ from the defaults."""
