"""Settings of the training of a lane model: those of the paper, of the authors' code, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainingConfig(BaseModel):
    """Settings of one training; the defaults are preset `errata` (docs/decisions/008-recipe.md).

    Attributes:
        d_r: width of keys and queries.
        num_prompt: l, number of continuous prompt tokens.
        num_deep: number of layers, evenly spaced, at which vectors are added to the input of the
            block at the positions of the continuous prompt. Paper: 0. Ours.
        num_target: how many of the target's tokens MLP_P reads. Paper: 0, which means that MLP_P
            has to find the target in the key.
        by_token: MLP_P makes each position of the prompt from a few of these tokens
            (`retriever.token_prompts`) and does not read the key; otherwise the whole prompt from
            all of them, and from the key. Ours.
        num_sentinel: c, number of free vectors of the sentinel.
        placement: continuous prompts before the BOS token (code), or after it, where text started
            in the LLM's own training.
        max_tokens: length of the longest text that the encoder reads.
        depth: layers of the small encoder that is created if none is given.
        width: of the small encoder.
        batch: facts of a step.
        sides: prompt and rephrase both enter both contrastive losses (`both`, paper), or each
            enters one, at random (`coin`, code).
        scale: of scores: 1 (`one`, paper), 1/√d_r (`sqrt`, code), or a learned number (`learned`).
        start: random MLPs (`random`, paper), or MLPs that rank by similarity from the first step
            (`similar`, see `retriever.start`).
        hinge: terms that are already right by this factor do not count (code: 1.2; paper: none).
        alike: size of the groups of similar facts in a batch, which make it harder; 1 draws all
            facts at random (paper). Ours.
        borrowed: share of facts with a rephrase of another fact of their relation. Ours.
        invented: share of facts with an invented subject. Ours.
        answered: share of facts with a random word as the target. Ours.
        digressing: share of facts whose locality prompt asks for another relation of the same
            subject. Ours.
        questioned: in a stage of MLP_P alone, the share of facts about which it is trained on
            other questions. Ours.
        preceded: share of facts whose rephrase MLP_P reads after another statement. Ours.
        named: share of facts whose target is another name, number or date for MLP_P. Ours.
        stages: retriever and MLP_P are trained together (`joint`, paper), or one after the other
            (`apart`): first the retriever; then, with a frozen encoder, MLP_K, MLP_Q and the
            sentinel with thousands of keys; then MLP_P on constant keys. `prompts` is the last
            stage alone, with the retriever of another lane model.
        retriever_share: the first stage's share of the training.
        scope_share: the second stage's share.
        candidates: keys of a step in the second stage; an eighth of them are queried.
        calibrate: whether the sentinel's key is scaled, once the retriever is final, to balance
            right claims and right deferrals in validation. `prompts` keeps the calibration of the
            other lane model. Ours.
        own_prompt_every: one in this many facts of a step trains MLP_P on its own prompt as well;
            every fact trains it on a rephrase, which is harder. 1 uses both for all (paper).
        terms: how the losses add up. `each` (paper): prompt and rephrase of a fact each count once
            in equations 14 and 15, like its locality prompt, and an answer counts with −log P of
            all its tokens (equations 10 and 11). `means` (code, ours): prompt and rephrase count
            half each, and an answer loss is a mean over the tokens of all answers.
        locality_weight: of KL(base ‖ prompted); 0 omits the term. Paper: 1.
        dropout: whether the encoder uses dropout in training (code: yes). Keys trained with it
            score lower in training than in serving, so that the sentinel claims too much.
        learning_rate: of MLP_K, MLP_Q and sentinel.
        encoder_learning_rate: of the encoder.
        prompt_learning_rate: of MLP_P.
        schedule: constant (paper), or a warm-up and a half cosine down to a twentieth.
        warmup_steps: of the cosine schedule.
        max_steps: optimiser steps.
        max_norm: limit of the gradient norms, separately for encoder, retriever heads and MLP_P; 0
            disables clipping.
        evaluate_every: steps between two validations; each writes a checkpoint.
        patience: number of validations without improvement after which training stops.
        num_validation: number of held-out examples; all facts of a subject are held out together.
        precision: `auto` computes in bf16 where the machine is faster with it, otherwise in fp32;
            weights, optimiser and losses are fp32.
        seed: of weights, order and dropout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_r: int = Field(default=1024, ge=1)
    num_prompt: int = Field(default=12, ge=1, le=64)
    num_deep: int = Field(default=4, ge=0)
    num_target: int = Field(default=12, ge=0)
    by_token: bool = True
    num_sentinel: int = Field(default=10, ge=1)
    placement: Literal["before_bos", "after_bos"] = "after_bos"
    max_tokens: int = Field(default=64, ge=8)
    depth: int = Field(default=4, ge=1)
    width: int = Field(default=256, ge=32)
    batch: int = Field(default=32, ge=2)
    sides: Literal["both", "coin"] = "both"
    scale: Literal["one", "sqrt", "learned"] = "learned"
    start: Literal["random", "similar"] = "similar"
    hinge: float | None = Field(default=None, gt=0)
    alike: int = Field(default=8, ge=1)
    borrowed: float = Field(default=0.3, ge=0, le=1)
    invented: float = Field(default=0.3, ge=0, le=1)
    answered: float = Field(default=0.15, ge=0, le=1)
    digressing: float = Field(default=0.3, ge=0, le=1)
    questioned: float = Field(default=0.5, ge=0, le=1)
    preceded: float = Field(default=0.15, ge=0, le=1)
    named: float = Field(default=0.5, ge=0, le=1)
    stages: Literal["joint", "apart", "prompts"] = "apart"
    retriever_share: float = Field(default=0.5, gt=0, lt=1)
    scope_share: float = Field(default=0.15, ge=0, lt=1)
    candidates: int = Field(default=2048, ge=8)
    calibrate: bool = True
    own_prompt_every: int = Field(default=8, ge=1)
    terms: Literal["each", "means"] = "means"
    locality_weight: float = Field(default=0.0, ge=0)
    dropout: bool = False
    learning_rate: float = Field(default=2e-4, gt=0)
    encoder_learning_rate: float = Field(default=5e-5, gt=0)
    prompt_learning_rate: float = Field(default=2e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_steps: int = Field(default=50, ge=0)
    max_steps: int = Field(default=10_000, ge=1)
    max_norm: float = Field(default=1.0, ge=0)
    evaluate_every: int = Field(default=200, ge=1)
    patience: int = Field(default=6, ge=1)
    num_validation: int = Field(default=500, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _leaves_time_for_prompts(self) -> TrainingConfig:
        if self.retriever_share + self.scope_share >= 1:
            raise ValueError("retriever_share and scope_share leave no time for MLP_P")
        return self

    @model_validator(mode="after")
    def _reads_targets_by_token(self) -> TrainingConfig:
        if self.by_token and not self.num_target:
            raise ValueError("by_token requires num_target")
        return self


_PAPER: Mapping[str, Any] = {
    "d_r": 4096,
    "num_prompt": 3,
    "num_deep": 0,
    "num_target": 0,
    "by_token": False,
    "placement": "before_bos",
    "batch": 8,
    "scale": "one",
    "start": "random",
    "alike": 1,
    "borrowed": 0.0,
    "invented": 0.0,
    "answered": 0.0,
    "digressing": 0.0,
    "questioned": 0.0,
    "preceded": 0.0,
    "named": 0.0,
    "own_prompt_every": 1,
    "terms": "each",
    "stages": "joint",
    "calibrate": False,
    "dropout": True,
    "locality_weight": 1.0,
    "learning_rate": 1e-5,
    "encoder_learning_rate": 1e-5,
    "prompt_learning_rate": 1e-5,
    "schedule": "constant",
    "max_steps": 150_000,
    "max_norm": 0.0,
    "evaluate_every": 5000,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "errata": {},
    "paper": _PAPER,
    "code": {
        **_PAPER,
        "sides": "coin",
        "terms": "means",
        "scale": "sqrt",
        "hinge": 1.2,
        "evaluate_every": 3000,
    },
}
"""Values that differ from the defaults, by name."""
