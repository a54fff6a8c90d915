"""One expert: an FFN of its own beside the frozen one (LEMoE eq. 4).

    f_t(x) = W_down^t · (act(W_gate x) ⊙ W_up^t x),        h(x) = FFN₀(x) + λ Σ_i g_i f_i(x)

Gate and activation are those of the frozen FFN. Initially, W_up^t equals the frozen W_up and
W_down^t is zero, so that f_t = 0. A low-rank expert adds B_u A_u to the frozen W_up, and its W_down
is B_d A_d.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from errata.editing.artifact import TensorSpec
from errata.editing.effects.expert import Expert
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.model.causal_lm import CausalLM, Widths
from errata.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Shape:
    """Position, kind and sizes of the experts that a lane adds to a model.

    Attributes:
        layer: 0-based; its FFN gets experts.
        kind: `ffn` or `lora`.
        rank: of `lora`, else 0.
        d: width of the model.
        d_ff: of its FFN.
        d_p: of the projection.
    """

    layer: int
    kind: Literal["ffn", "lora"]
    rank: int
    d: int
    d_ff: int
    d_p: int

    @classmethod
    def of(cls, model: Widths, config: LemoeConfig) -> Shape:
        """Computes the shape that a configuration gives for a model.

        Raises:
            InvalidRequestError: the layer does not exist, or the rank fits no projection.
        """
        rank = config.rank if config.expert == "lora" else 0
        if rank > model.d:
            raise InvalidRequestError(
                f"rank {rank} is above the projection's smaller width, {model.d}.",
                field="config.rank",
            )
        layer = config.resolve_layer(model.num_layers)
        d_p = config.projection_width or max(1, model.d // 4)
        return cls(layer, config.expert, rank, model.d, model.d_ff, d_p)

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Sizes of an expert's own tensors, by name."""
        if self.kind == "ffn":
            return {"up": (self.d_ff, self.d), "down": (self.d, self.d_ff)}
        return {
            "up_a": (self.rank, self.d),
            "up_b": (self.d_ff, self.rank),
            "down_a": (self.rank, self.d_ff),
            "down_b": (self.d, self.rank),
        }

    @property
    def num_parameters(self) -> int:
        """Number of parameters of one expert."""
        return sum(rows * columns for rows, columns in self.sizes().values())

    def specs(self, dtype: torch.dtype) -> dict[str, TensorSpec]:
        """The tensors of one expert in an artifact."""
        return {name: TensorSpec(size, dtype) for name, size in self.sizes().items()}


def new_expert(model: CausalLM, shape: Shape, seed: int) -> nn.ParameterDict:
    """Makes an expert's initial tensors, fp32: f = 0."""
    rng = torch.Generator().manual_seed(seed % 2**63)
    if shape.kind == "ffn":
        up = model.up_weight(shape.layer).float().clone()
        tensors = {"up": up, "down": torch.zeros(shape.d, shape.d_ff)}
    else:

        def uniform(size: tuple[int, ...]) -> Tensor:
            drawn = torch.rand(size, generator=rng)
            return (2 * drawn - 1) / math.sqrt(size[-1])

        sizes = shape.sizes()
        tensors = {
            "up_a": uniform(sizes["up_a"]),
            "up_b": torch.zeros(sizes["up_b"]),
            "down_a": uniform(sizes["down_a"]),
            "down_b": torch.zeros(sizes["down_b"]),
        }
    return nn.ParameterDict({name: nn.Parameter(t.to(model.device)) for name, t in tensors.items()})


def as_expert(model: CausalLM, shape: Shape, tensors: Mapping[str, Tensor]) -> Expert:
    """Makes the expert that hooks use, in the dtype of `tensors`; gradients reach `tensors`."""
    if shape.kind == "ffn":
        return Expert(shape.layer, tensors["up"], tensors["down"])
    up = model.up_weight(shape.layer).to(tensors["up_a"].dtype)
    return Expert(
        shape.layer,
        up + tensors["up_b"] @ tensors["up_a"],
        tensors["down_b"] @ tensors["down_a"],
    )
