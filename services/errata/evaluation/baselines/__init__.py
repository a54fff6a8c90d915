"""Baseline methods as published, for comparison only; they are not lanes.

| name | method | publication |
|---|---|---|
| `none` | no editing | |
| `ft-l` | constrained fine-tuning of one layer | Zhu et al. 2020, as in Meng et al. 2022 |
| `grace` | discrete key-value codebook | Hartvigsen et al. 2023 |
| `moe` | mixture of low-rank experts, conventional or one for each batch | Dou et al. 2023 |
| `memoir` | a residual memory, sparse columns for each edit | Wang et al. 2025 |
| `wise` | side memories, read where they answer strongly | Wang et al. 2024 |
| `memit` | closed form on hidden states | Meng et al. 2023 |
| `memit-accumulated` | MEMIT whose covariance includes earlier edits' keys | |
| `pmet` | closed form on FFN outputs, attention's share discarded | Li et al. 2024 |
| `pmet-accumulated` | PMET, likewise | |
| `alphaedit` | MEMIT in the null space of text's keys | Fang et al. 2025 |
| `rome` | one layer, values written exactly | Meng et al. 2022; Gupta et al. 2024 for batches |
| `ultraedit` | one gradient step, normalised over all edits | Gu et al. 2025 |
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
from errata.evaluation.baselines.memoir import Memoir, MemoirConfig
from errata.evaluation.baselines.moe import MoeAdaptor, MoeConfig
from errata.evaluation.baselines.none import NoEditing, NothingConfig
from errata.evaluation.baselines.retrieval_prompt import RetrievalPrompt, RetrievalPromptConfig
from errata.evaluation.baselines.ultraedit import UltraEdit, UltraEditConfig
from errata.evaluation.baselines.wise import Wise, WiseConfig
from errata.evaluation.systems import System

_PUBLISHED: Mapping[str, Any] = {
    "optimise": "top",
    "covariance": "fixed",
    "fusion": "none",
    "num_prefixes": 3,
    "kl_weight": 0.0625,
}
MEMIT: Mapping[str, Any] = {
    **_PUBLISHED,
    "variant": "memit",
    "target": "hidden",
    "spread": "linear",
    "attention_delta": False,
    "steps": 25,
    "clamp": 4.0,
    "gain": 1.4,
}
"""MEMIT as configuration of an AdaPLE lane; λ and step, relative to the model, are tuned for it."""

PMET: Mapping[str, Any] = {
    **_PUBLISHED,
    "variant": "memit",
    "target": "ffn",
    "spread": "sqrt",
    "attention_delta": True,
    "steps": 20,
    "clamp": 1.0,
    "gain": 1.0,
}
"""PMET, likewise; with accumulated covariance it was AdaPLE's default until 2026."""

ROME: Mapping[str, Any] = {**MEMIT, "variant": "equality", "num_layers": 1, "gain": 1.0}
"""ROME's single layer and equality constraint (for batches: EMMET), likewise."""


@dataclass(frozen=True, slots=True)
class LaneVariant:
    """A published method that equals a lane's method with other configuration values.

    Attributes:
        method: of the lane.
        values: of its configuration; a plan's own values override them.
    """

    method: str
    values: Mapping[str, Any]


LANE_VARIANTS: Mapping[str, LaneVariant] = {
    "memit": LaneVariant("adaple", MEMIT),
    "memit-accumulated": LaneVariant("adaple", {**MEMIT, "covariance": "accumulate"}),
    "pmet": LaneVariant("adaple", PMET),
    "pmet-accumulated": LaneVariant("adaple", {**PMET, "covariance": "accumulate"}),
    "alphaedit": LaneVariant(
        "adaple", {**MEMIT, "variant": "nullspace", "covariance": "accumulate"}
    ),
    "rome": LaneVariant("adaple", ROME),
}


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
    "memoir": BaselineMethod(MemoirConfig, Memoir),
    "moe": BaselineMethod(MoeConfig, MoeAdaptor),
    "ultraedit": BaselineMethod(UltraEditConfig, UltraEdit),
    "wise": BaselineMethod(WiseConfig, Wise),
    "retrieval-prompt": BaselineMethod(RetrievalPromptConfig, RetrievalPrompt),
}
