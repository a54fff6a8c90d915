"""Baseline methods as published, for comparison only; they are not lanes.

| name | method | publication |
|---|---|---|
| `none` | no editing | |
| `ft-l` | constrained fine-tuning of one layer | Zhu et al. 2020, as in Meng et al. 2022 |
| `grace` | discrete key-value codebook | Hartvigsen et al. 2023 |
| `moe` | mixture of low-rank experts, conventional or one for each batch | Dou et al. 2023 |
| `memit` | closed form on hidden states, no drop-and-rescale | Meng et al. 2023 |
| `retrieval-prompt` | the knowledge statement before the query | |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from errata.editing.lane.contract import LaneConfig
from errata.editing.model.causal_lm import CausalLM
from errata.evaluation.baselines.ft_l import ConstrainedFineTuning, FtlConfig
from errata.evaluation.baselines.grace import Grace, GraceConfig
from errata.evaluation.baselines.moe import MoeAdaptor, MoeConfig
from errata.evaluation.baselines.none import NoEditing, NothingConfig
from errata.evaluation.baselines.retrieval_prompt import RetrievalPrompt, RetrievalPromptConfig
from errata.evaluation.systems import System

MEMIT: Mapping[str, Any] = {
    "variant": "memit",
    "target": "hidden",
    "spread": "linear",
    "attention_delta": False,
    "steps": 25,
    "clamp": 4.0,
    "gain": 1.4,
    "covariance": "fixed",
    "fusion": "none",
}
"""MEMIT as configuration of an AdaPLE lane; λ and step, relative to the model, are tuned for it."""


@dataclass(frozen=True, slots=True)
class LaneVariant:
    """A published method that equals a lane's method with other configuration values.

    Attributes:
        method: of the lane.
        values: of its configuration; a plan's own values override them.
    """

    method: str
    values: Mapping[str, Any]


LANE_VARIANTS: Mapping[str, LaneVariant] = {"memit": LaneVariant("adaple", MEMIT)}


@dataclass(frozen=True, slots=True)
class BaselineMethod:
    """A method outside the lanes, for comparison.

    Attributes:
        config: class of its configuration.
        make: model and configuration → system.
    """

    config: type[LaneConfig]
    make: Callable[[CausalLM, Any], System]


BASELINES: Mapping[str, BaselineMethod] = {
    "none": BaselineMethod(NothingConfig, NoEditing),
    "ft-l": BaselineMethod(FtlConfig, ConstrainedFineTuning),
    "grace": BaselineMethod(GraceConfig, Grace),
    "moe": BaselineMethod(MoeConfig, MoeAdaptor),
    "retrieval-prompt": BaselineMethod(RetrievalPromptConfig, RetrievalPrompt),
}
