"""Settings of a gate's training."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class GateTrainingConfig(BaseModel):
    """Settings; the defaults made the published gate (docs/decisions/018-gate.md).

    Attributes:
        d_r: width of keys and queries.
        num_sentinel: c, number of free vectors of the sentinel.
        max_tokens: length of the longest text that the encoder reads.
        frozen_layers: the encoder's embeddings and this many of its first layers stay as they were
            pretrained: they know what paraphrases have in common.
        batch: facts of a step.
        records: share of groups of facts that come from records; the others are invented.
        stored: share of a batch's facts that are stored; the others only ask.
        varied: share of queries whose wording is changed.
        scope_share: last share of the training, with a frozen encoder and thousands of keys.
        pool: batches whose facts are the candidates of that stage.
        candidates: keys of a step of that stage.
        false_claims: highest share of outside prompts of validation that calibration admits.
        learning_rate: of MLP_K, MLP_Q and the sentinel.
        encoder_learning_rate: of the encoder's other layers.
        max_steps: optimiser steps.
        warmup_steps: of the cosine schedule.
        num_validation: held-out records; all records of a subject are held out together.
        seed: of everything random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_r: int = Field(default=512, ge=1)
    num_sentinel: int = Field(default=10, ge=1)
    max_tokens: int = Field(default=64, ge=8)
    frozen_layers: int = Field(default=3, ge=0)
    batch: int = Field(default=64, ge=4)
    records: float = Field(default=0.5, ge=0, le=1)
    stored: float = Field(default=0.7, gt=0, le=1)
    varied: float = Field(default=0.35, ge=0, le=1)
    scope_share: float = Field(default=0.2, ge=0, lt=1)
    pool: int = Field(default=80, ge=1)
    candidates: int = Field(default=2048, ge=8)
    false_claims: float = Field(default=0.03, gt=0, lt=1)
    learning_rate: float = Field(default=3e-4, gt=0)
    encoder_learning_rate: float = Field(default=5e-5, gt=0)
    max_steps: int = Field(default=10_000, ge=1)
    warmup_steps: int = Field(default=20, ge=0)
    num_validation: int = Field(default=400, ge=1)
    seed: int = Field(default=0, ge=0)
