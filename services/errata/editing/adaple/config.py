"""Configuration of an AdaPLE lane. Every option changes answers, so all are committed to the log.

Where the publications give an absolute number that fits one model (λ, step size, radius), the
option here is relative to the model, so that one default suits models of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from errata.editing.edit import LAST_ATTEMPT
from errata.editing.lane.contract import LaneConfig, check_layer

Variant = Literal["memit", "printed", "eq3", "erase", "equality", "nullspace"]

# λ = d_ff / gain, tuned per variant on development edits: with one λ for all variants, a comparison
# of variants would compare their gains.
_GAINS: dict[Variant, float] = {
    "memit": 1.0,
    "printed": 4.0,
    "eq3": 0.3,
    "erase": 0.6,
    "equality": 1.0,
    "nullspace": 1.0,
}

# Edits per edited layer and unit of d_ff up to which the Score of all edits stays above .8 on the
# benchmark's model; `layers` is measured to .13 (docs/decisions/004-adaple-defaults.md).
_KEPT = {"top": 0.09, "layers": 0.2}

LASTING: Mapping[str, object] = {
    "optimise": "layers",
    "variant": "equality",
    "steps": 12,
    "stop_loss": 0.2,
    "kl_weight": 0.0,
    "num_layers": 7,
}
"""What new lanes have; the configuration's own defaults are those of lanes made before it."""

# Options that only `optimise=top` uses: a lane that sets one of them means it.
_OF_TOP = frozenset(
    {"target", "spread", "attention_delta", "clamp", "step_size", "weight_decay", "beta"}
)
_PAPERS_VARIANTS = ("memit", "printed", "eq3", "erase")

PAPER: Mapping[str, object] = {
    "optimise": "top",
    "variant": "printed",
    "num_prefixes": 5,
    "prompt_weight": "uniform",
    "covariance": "fixed",
    "fusion": "dr",
    "drop": 0.8,
}
"""The paper: Eq. 4 as printed, drop and rescale at .8 (it advises .7 to .9), constant C."""


def new_lane(values: Mapping[str, object]) -> Mapping[str, object]:
    """The defaults of a new lane to which its operator gives `values`."""
    means_top = not _OF_TOP.isdisjoint(values) or values.get("variant") in _PAPERS_VARIANTS
    optimise = values.get("optimise", "top" if means_top else "layers")
    return {} if optimise == "top" else LASTING


class AdapleConfig(LaneConfig):
    """Configuration of an AdaPLE lane.

    Attributes:
        layers: edited layers, ascending; empty selects them by depth (`resolve_layers`). Paper: 4–8
            of LLaMA2-7B's 32.
        num_layers: maximum number of layers of the automatic selection. Paper: 5.
        variant: the closed form: `memit` is without forgetting, `printed` is the paper's Eq. 4 with
            its sign error, `eq3` the exact minimiser of the paper's Eq. 3, `erase` its well-posed
            reading, `equality` writes the values exactly (ROME and EMMET), `nullspace` only into
            directions that text hardly uses (AlphaEdit).
        beta: strength of forgetting in `erase`, 0 ≤ β < 1; 0 is `memit`.
        gain: g of λ = d_ff / g; the mean of kᵀ(λE[kkᵀ])⁻¹k over the statistics' keys is g. None
            uses the value tuned for the variant. MEMIT and PMET on LLaMA2-7B: λ = 15000, so
            g = 0.73; GPT-J: λ = 6000, g = 2.7.
        lam: absolute λ, overriding `gain`.
        retry_factor: for the retries of an edit that fails its check on its own: each retry divides
            λ by this, and multiplies step and clamp by it. Ours: values that suit hundreds of edits
            can be too weak for one that the model resists.
        ridge: added to E[kkᵀ], as a multiple of its mean diagonal; ours (code: none, 100k samples).
        null_threshold: of `nullspace`: it keeps eigenvectors of E[kkᵀ] whose eigenvalue is below
            this multiple of the mean. AlphaEdit: an absolute 0.02 for LLaMA3-8B.
        optimise: what is optimised: `top`, the value of the last edited layer, of which the layers
            share the residual (paper); `layers`, a change of every edited layer's own value,
            jointly and by the damage that it does to text (ours, `adaple.layerwise`).
        metric: of `layers`: the damage is measured by the gradients of text (`fisher`), or all
            directions of a value count alike (`euclidean`).
        metric_floor: added to the eigenvalues of the Fisher matrix, as a multiple of their mean.
        metric_tokens: number of text tokens for it.
        step_length: of `layers`: length of a step, in the square root of nats times d_ff.
        spread: a layer's share of the residual: 1/√(layers left) (PMET) or 1/(layers left) (MEMIT).
        target: the activation that is optimised: the FFN's output m^L (PMET) or the hidden state
            h^L (MEMIT), to which updates of earlier layers contribute additively.
        steps: maximum optimisation steps for the targets. MEMIT 25, PMET 20–30.
        step_size: Adam's step, as a share of the reference norm ‖h^L‖.
        clamp: radius of δ^a and δ^m as a share of ‖h^L‖. Code: 0.75 to 4 of the initial value.
        stop_loss: the optimisation of an edit stops when its mean NLL is below this; with
            `layers`, and its target is the likeliest in each context (ENCORE). PMET: 0.05.
        kl_weight: weight of KL(edited ‖ base) on `kl_prompt`. LLaMA2-7B 0.0625, GPT-J 1.
        kl_prompt: prompt of the KL term; `{}` is replaced by the subject. Code: "{} is a".
        weight_decay: weight of (‖δ‖/‖h^L‖)². PMET has one; the paper does not mention it.
        attention_delta: optimise δ^a together with δ^m, then discard it (PMET). False is MEMIT.
        num_prefixes: number of contexts that the model generates. Code: 5.
        prefix_tokens: their length in tokens. Code: up to 10.
        templates: further contexts; `{}` is replaced by the prompt. Ours.
        subject_keys: also take keys from the subject alone, without the words before it. Ours; off,
            because it blurs the keys of subjects that the prompt's words distinguish.
        prompt_weight: weight of the bare prompt among the contexts: `half` (code) or `uniform`
            (paper).
        covariance: `fixed` keeps C constant (paper); `accumulate` adds the keys of earlier batches
            to it, so that later edits preserve earlier ones (ours).
        covariance_samples: number of text tokens for E[kkᵀ], as a multiple of d_ff.
        fusion: `none`; `dr`, drop and rescale (paper); `topk`, keep only the largest entries; or
            `average` the weights before and after.
        drop: share p of entries that fusion drops; for `average`, the share of the weights before.
            0 changes nothing. Paper: advises 0.7 to 0.9, does not state its value. Ours: 0, by
            measurement.
        capacity: number of edits that the lane is made for; it takes more, and warns. None uses the
            measured share of the edited layers' widths (`resolve_capacity`).
        attribution_threshold: minimum response of an edit that shaped an answer, as a share of its
            response to its own key.
    """

    layers: tuple[int, ...] = ()
    num_layers: int = Field(default=5, ge=1)
    variant: Variant = "memit"
    beta: float = Field(default=0.0, ge=0.0, lt=1.0)
    gain: float | None = Field(default=None, gt=0.0)
    lam: float | None = Field(default=None, gt=0.0)
    retry_factor: float = Field(default=2.0, ge=1.0)
    ridge: float = Field(default=1e-3, ge=0.0)
    null_threshold: float = Field(default=0.1, gt=0.0)
    optimise: Literal["top", "layers"] = "top"
    metric: Literal["fisher", "euclidean"] = "fisher"
    metric_floor: float = Field(default=0.1, gt=0.0)
    metric_tokens: int = Field(default=4096, ge=1)
    step_length: float = Field(default=0.07, gt=0.0)
    spread: Literal["sqrt", "linear"] = "sqrt"
    target: Literal["ffn", "hidden"] = "ffn"
    steps: int = Field(default=20, ge=1, le=1000)
    step_size: float = Field(default=0.1, gt=0.0)
    clamp: float = Field(default=1.0, gt=0.0)
    stop_loss: float = Field(default=0.05, ge=0.0)
    kl_weight: float = Field(default=0.0625, ge=0.0)
    kl_prompt: str = "{} is a"
    weight_decay: float = Field(default=0.0, ge=0.0)
    attention_delta: bool = True
    num_prefixes: int = Field(default=3, ge=0, le=32)
    prefix_tokens: int = Field(default=8, ge=1, le=64)
    templates: tuple[str, ...] = ()
    subject_keys: bool = False
    prompt_weight: Literal["half", "uniform"] = "half"
    covariance: Literal["fixed", "accumulate"] = "accumulate"
    covariance_samples: int = Field(default=100, ge=1)
    fusion: Literal["none", "dr", "topk", "average"] = "dr"
    drop: float = Field(default=0.0, ge=0.0, lt=1.0)
    capacity: int | None = Field(default=None, ge=1)
    attribution_threshold: float = Field(default=0.5, gt=0.0)

    @model_validator(mode="after")
    def _consistent(self) -> AdapleConfig:
        if list(self.layers) != sorted(set(self.layers)) or any(x < 0 for x in self.layers):
            raise ValueError("layers must be ascending, distinct and not negative")
        if self.beta and self.variant != "erase":
            raise ValueError("beta belongs to variant 'erase'; leave it 0 for the others")
        if self.variant == "printed" and self.target == "hidden":
            raise ValueError("variant 'printed' subtracts 3 m^L, so its target must be 'ffn'")
        if self.optimise == "layers" and (self.variant == "printed" or self.target == "hidden"):
            raise ValueError(
                "optimise 'layers' has a change for each layer; it needs target 'ffn' and a "
                "variant other than 'printed'"
            )
        if self.fusion == "none" and self.drop:
            raise ValueError("drop needs fusion 'dr', 'topk' or 'average'")
        if any(text.count("{}") != 1 for text in (self.kl_prompt, *self.templates)):
            raise ValueError("kl_prompt and templates must contain {} exactly once")
        return self

    @property
    def gamma(self) -> float:
        """Weight γ of K₁K₁ᵀ in the system C + γK₁K₁ᵀ of the variant."""
        weights = {"printed": 2.0, "eq3": 0.0, "erase": 1.0 - self.beta, "equality": 0.0}
        return weights.get(self.variant, 1.0)

    @property
    def old_weight(self) -> float:
        """Factor c of the old value in the residual V₂ − cV₁: 3 for `printed`, else 1."""
        return 3.0 if self.variant == "printed" else 1.0

    def resolve_lambda(self, d_ff: int) -> float:
        """λ of C = λ·E[kkᵀ] for a model with this FFN width."""
        return self.lam if self.lam is not None else d_ff / self.resolve_gain()

    def resolve_gain(self) -> float:
        """`gain`, or the value tuned for the variant."""
        return self.gain if self.gain is not None else _GAINS[self.variant]

    def resolve_capacity(self, num_layers: int, d_ff: int) -> int:
        """The number of edits up to which a lane keeps them well.

        Each edit takes a direction of every edited layer's d_ff; what its update adds to other
        keys grows with the share of directions that are taken, and falls with the number of layers
        that share the work.

        Args:
            num_layers: that the lane edits.
            d_ff: of the model.
        """
        return self.capacity or max(1, round(_KEPT[self.optimise] * num_layers * d_ff))

    def for_attempt(self, attempt: int) -> AdapleConfig:
        """Divides λ by `retry_factor` per retry, and multiplies step and radius by it.

        With `optimise=layers` there are more and longer steps, and the edit has to become more
        likely; λ stays. The last retry fits the prompt without generated contexts: a fact that is
        kept in one wording is better than none.
        """
        scale = self.retry_factor**attempt
        if self.optimise == "layers":
            stronger = {
                "steps": round(self.steps * scale),
                "step_length": self.step_length * scale,
                "stop_loss": self.stop_loss / scale,
                "num_prefixes": self.num_prefixes if attempt < LAST_ATTEMPT else 0,
            }
            return self.model_copy(update=stronger)
        return self.model_copy(
            update={
                "gain": self.resolve_gain() * scale,
                "lam": None if self.lam is None else self.lam / scale,
                "step_size": self.step_size * scale,
                "clamp": self.clamp * scale,
            }
        )

    def resolve_layers(self, depth: int) -> tuple[int, ...]:
        """The edited layers of a model with `depth` blocks.

        The automatic selection has at most half of the layers (`optimise=layers`: seven tenths) and
        ends at a quarter of the depth, as in LLaMA2-7B (8 of 32); in a model that is too shallow
        for that it starts at layer 0.

        Raises:
            InvalidRequestError: a configured layer does not exist.
        """
        if self.layers:
            check_layer(self.layers[-1], depth, "config.layers")
            return self.layers
        most = -(-7 * depth // 10) if self.optimise == "layers" else depth // 2
        count = max(1, min(self.num_layers, most))
        last = min(max(depth // 4, count - 1), depth - 1)
        return tuple(range(last - count + 1, last + 1))
