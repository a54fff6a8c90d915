"""The configuration of an ELDER lane; every value changes answers, so all travel in the log.

`PAPER` holds the published values exactly. `BANKS`, which new lanes have, and `ONE_BANK` for a
fixed memory are ours, for the reasons in docs/decisions/009-elder.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from errata.editing.lane.contract import check_layer
from errata.editing.lane.following import KeepsFollowing
from errata.editing.lane.method import Defaults
from errata.errors import InvalidRequestError

Scope = Literal["codes", "cosine", "idf", "retriever"]


class ElderConfig(KeepsFollowing):
    """Configuration of an ELDER lane.

    Attributes:
        layers: adapted layers, ascending; if empty, `num_layers` of them are chosen
            (`resolve_layers`). Paper: 21–26 of LLaMA2-7B's 32, 36–40 of GPT2-XL's 48.
        num_layers: maximum number of layers that are chosen automatically. Paper: 6.
        projection: the FFN projection that LoRAs adapt. Paper: `down` for Llama, `up` for GPT-2.
        num_experts: N, the number of LoRAs per layer. Paper: 4.
        top_k: k, the number of LoRAs per layer that a row uses. Paper: 2.
        rank: r. Paper: 8.
        alpha: α of the factor α/r; None means r. Code: 8.
        init: the distribution of A: that of the authors' code (`code`, U(±1/√r)), PEFT's default
            (`peft`, Kaiming uniform, U(±1/√d_in)) or PEFT's `gaussian` (N(0, 1/r²)); B is 0 in all
            three. `adapters` takes A and B from PEFT adapters, one per expert, that the lanes file
            names.
        query: the input of routers and codes, at the last prompt token: the hidden state that
            enters the first adapted layer (`hidden`), or the input of its adapted projection
            (`input`, code).
        gates: the query that weights the LoRAs of a claimed row: the claiming edit's (`edit`,
            ours), so that a rephrase is answered by the mixture that the edit was fitted with; or
            the row's own (`row`, paper).
        scope: decides whether an edit claims a prompt: Hamming distance of allocation codes
            (`codes`, paper), cosine of queries, cosine of input embeddings weighted by inverse
            document frequency, or the learned retriever and sentinel of a RECIPE lane model.
        epsilon: ε of `codes`; a claim needs a distance below it; None calibrates it. Paper: 12.
        threshold: of `cosine` and `idf`; None calibrates it.
        false_claims: share of held-out prompts that a calibrated scope test can claim: for
            `codes`, prompts of the edits about other subjects (`elder.neighbours`); otherwise the
            openings of paragraphs.
        loss: the term that steers the routers besides the model's loss: guided allocation
            (`guided`, paper), load balancing (`balanced`, ablation), or no term.
        loss_weight: λ of that term. Paper: 0.01.
        steps: maximum number of planned optimiser steps per batch. Code: 50.
        extra_steps: maximum number of further steps, until the batch's edits and the earlier edits
            of the bank that can be replayed are said: each prompt, and each rephrase that came with
            a new edit, gives its target a probability above one half. Ours.
        learning_rate: of Adam, which starts from scratch for each batch. Paper: 1e-4.
        stop_loss: planned steps end once the latest mean NLL of the prompt and rephrases that came
            with each edit, and that of another text of `stop_share` of the edits, are below this
            value, and what follows such a share of texts diverges by less than 0.1 nats
            (`num_following`); 0 disables it.
        stop_share: share of the edits whose other texts, and of the texts whose continuations, must
            be so; 1 requires all. Ours.
        num_contexts: number of contexts, drawn from the statistics text; each prompt is also
            learned after each of them.
        num_rephrases: number of additional rephrases of each prompt, from the forms in which the
            lane model saw facts of the same relation (`editing.retriever.frames`); none without a
            lane model. Ours.
        num_questions: maximum number of English questions about the subject that each edit is also
            learned with (`editing.retriever.questions`); none if its target is a long sentence.
            Ours.
        prompt_share: share of the steps that take an edit's bare prompt, at regular intervals; the
            others take its other texts in turn.
        precision: `auto` computes a fit's matrix products in bf16 on machines that are faster in
            bf16.
        bank_edits: number of edits after which the lane starts a new bank of experts; the earlier
            banks never change again (`elder.banks`). 0 keeps one bank for all edits (paper), as
            `codes` requires, since codes of different routers cannot be compared. A larger batch
            fills several banks.
        replay: the earlier edits of a bank that are trained together with a batch: none (paper), a
            reservoir of `replay_budget` edits, or all.
        replay_budget: number of edits in the reservoir.
        replay_pool: maximum number of earlier edits that one batch draws from.
        replay_ratio: number of earlier edits per new edit in one step, so that an edit costs the
            same in batches of any size.
        replay_rows: maximum number of earlier edits in one planned step, of texts in an extra one,
            and the number of edits in one step of a compaction.
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
    extra_steps: int = Field(default=0, ge=0, le=1000)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    stop_loss: float = Field(default=0.05, ge=0.0)
    stop_share: float = Field(default=1.0, gt=0.0, le=1.0)
    num_contexts: int = Field(default=4, ge=0, le=64)
    num_rephrases: int = Field(default=8, ge=0, le=64)
    num_questions: int = Field(default=0, ge=0, le=16)
    prompt_share: float = Field(default=0.4, gt=0.0, le=1.0)
    precision: Literal["auto", "fp32"] = "auto"
    bank_edits: int = Field(default=0, ge=0)
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
    def takes_gate(self) -> bool:
        """True if it needs a lane model: only the gate in it is used."""
        return self.needs_lane_model

    @property
    def needs_initial_files(self) -> bool:
        """True if the experts start from PEFT adapters."""
        return self.init == "adapters"

    @property
    def takes_one_namespace(self) -> bool:
        """True if it has a single bank: a bank learns the edits of one namespace."""
        return not self.bank_edits

    @model_validator(mode="after")
    def _consistent(self) -> ElderConfig:
        if list(self.layers) != sorted(set(self.layers)) or any(x < 0 for x in self.layers):
            raise ValueError("layers must be ascending, distinct and not negative")
        if self.epsilon == 0:
            raise ValueError("epsilon 0 claims nothing: a claim needs a distance below epsilon")
        if self.top_k >= self.num_experts:
            raise ValueError(
                f"top_k must be below num_experts, which is {self.num_experts}; otherwise only one "
                "allocation exists"
            )
        if self.gates == "row" and self.scope not in ("codes", "cosine"):
            raise ValueError("gates 'row' need the query that scopes 'codes' and 'cosine' read")
        if self.scope == "codes" and self.bank_edits:
            raise ValueError(
                "scope 'codes' compares codes of one bank; set bank_edits to 0 or use another scope"
            )
        if self.epsilon is not None and self.scope != "codes":
            raise ValueError("epsilon belongs to scope 'codes'")
        if self.threshold is not None and self.scope not in ("cosine", "idf"):
            raise ValueError("threshold belongs to scopes 'cosine' and 'idf'")
        return self

    @property
    def calibrates_codes(self) -> bool:
        """True if ε is calibrated."""
        return self.scope == "codes" and self.epsilon is None

    @property
    def has_own_queries(self) -> bool:
        """True if a prompt's own query decides its claim by a code, or weights its experts."""
        return self.scope == "codes" or self.gates == "row"

    @property
    def scale(self) -> float:
        """α/r."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def resolve_layers(self, depth: int) -> tuple[int, ...]:
        """The adapted layers of a model with `depth` blocks.

        The automatic choice ends at ⌈13/16 · depth⌉, which is 26 for LLaMA2-7B's 32 blocks, or
        later in shallower models that need the room. It never takes the first of several blocks.

        Raises:
            InvalidRequestError: a configured layer does not exist.
        """
        if self.layers:
            check_layer(self.layers[-1], depth, "config.layers")
            return self.layers
        count = max(1, min(self.num_layers, depth - 1))
        last = min(max(math.ceil(13 * depth / 16), count), depth - 1)
        return tuple(range(last - count + 1, last + 1))

    def num_replayed(self, num_new: int) -> int:
        """The maximum number of earlier edits in one step; a compaction has no new edits."""
        count = math.ceil(self.replay_ratio * num_new) if num_new else self.replay_rows
        return min(count, self.replay_rows)

    def check_epsilon(self, depth: int) -> None:
        """Refuses an ε above the largest possible distance of two codes.

        Raises:
            InvalidRequestError: about `epsilon`.
        """
        num_different = min(self.top_k, self.num_experts - self.top_k)
        max_distance = 2 * len(self.resolve_layers(depth)) * num_different
        if self.epsilon is not None and self.epsilon > max_distance:
            raise InvalidRequestError(
                f"epsilon {self.epsilon} claims everything: codes of this lane differ in at most "
                f"{max_distance} bits.",
                field="config.epsilon",
            )

    def check_rank(self, width: int) -> None:
        """Refuses a rank above `width`, the projection's smaller width.

        Raises:
            InvalidRequestError: about `rank`.
        """
        if self.rank > width:
            raise InvalidRequestError(
                f"rank {self.rank} is above the projection's smaller width, {width}.",
                field="config.rank",
            )


_FIRST_BANKS: Mapping[str, Any] = {
    "bank_edits": 16,
    "num_layers": 2,
    "rank": 8,
    "learning_rate": 1e-2,
    "num_rephrases": 4,
    "prompt_share": 0.3,
}
_BANKS_WITH_FOLLOWING: Mapping[str, Any] = {**_FIRST_BANKS, "steps": 60, "num_following": 3}

_BANKS_WITH_QUESTIONS: Mapping[str, Any] = {
    **_BANKS_WITH_FOLLOWING,
    "steps": 72,
    "num_contexts": 2,
    "num_rephrases": 3,
    "num_questions": 10,
    "prompt_share": 0.2,
    "stop_loss": 0.02,
    "stop_share": 0.85,
}

EARLIER_BANKS: Sequence[Mapping[str, Any]] = (
    _BANKS_WITH_QUESTIONS,
    _BANKS_WITH_FOLLOWING,
    _FIRST_BANKS,
)
"""What new lanes had in earlier versions, the latest first."""

BANKS: Mapping[str, Any] = {**_BANKS_WITH_QUESTIONS, "extra_steps": 72}
"""What new lanes have; the configuration's own defaults are those of lanes made before it."""

ONE_BANK: Mapping[str, Any] = {
    "bank_edits": 0,
    "num_layers": 6,
    "rank": 32,
    "learning_rate": 1e-3,
    "steps": 24,
    "extra_steps": 0,
    "stop_loss": 0.05,
    "stop_share": 1.0,
    "num_contexts": 4,
    "num_rephrases": 8,
    "num_questions": 0,
    "num_following": 0,
    "prompt_share": 0.4,
}
"""Memory that does not grow: one bank, with the room and the replay that it needs. Forgets more."""

PAPER: Mapping[str, Any] = {
    "bank_edits": 0,
    "num_layers": 6,
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
"""Published values that differ from the defaults."""


def with_banks(banks: Mapping[str, Any]) -> Defaults:
    """The defaults of new lanes: given an operator's values, those of banks if it can have any."""
    return lambda values: {} if _has_one_bank(values) else banks


def _has_one_bank(values: Mapping[str, object]) -> bool:
    """Whether the values need one bank.

    Codes of different banks cannot be compared, and adapters define the experts of one.
    """
    return values.get("scope") == "codes" or values.get("init") == "adapters"
