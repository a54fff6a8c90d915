"""Selects a prompt's experts: mean embedding, projection, anchors (LEMoE eqs. 5–7).

    e = mean of the prompt's input embeddings,  v = W_up SiLU(W_down e),  g = TopK(softmax_i(k_i·v))

`anchored` adds e to v, so that near prompts stay near under the frozen random projection, and has
gates of exactly 1. Word order has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.lemoe.experts import Shape


@dataclass(frozen=True, eq=False, slots=True)
class Projection:
    """W_down and W_up of a lane.

    Attributes:
        down: (d_p, d) fp32.
        up: (d, d_p) fp32.
        is_residual: whether e is added to v.
    """

    down: Tensor
    up: Tensor
    is_residual: bool

    @classmethod
    def new(cls, shape: Shape, seed: int, *, is_residual: bool) -> Projection:
        """A random projection; both matrices from U(±1/√fan_in)."""
        rng = torch.Generator().manual_seed(seed % 2**63)
        down = (2 * torch.rand(shape.d_p, shape.d, generator=rng) - 1) * shape.d**-0.5
        up = (2 * torch.rand(shape.d, shape.d_p, generator=rng) - 1) * shape.d_p**-0.5
        return cls(down, up, is_residual)

    def to(self, device: torch.device) -> Projection:
        """The projection on another device."""
        return Projection(self.down.to(device), self.up.to(device), self.is_residual)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """e (n, d) → v (n, d)."""
        v = torch.nn.functional.silu(embeddings @ self.down.T) @ self.up.T
        return embeddings + v if self.is_residual else v

    def anchor(self, embeddings: Tensor) -> Tensor:
        """k_t of a batch: the centroid of its v, of length 1; (d)."""
        return torch.nn.functional.normalize(self(embeddings).mean(0), dim=0)


def literal_gates(anchors: Tensor, v: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Raw softmax values of the k keys with the highest ones; not scaled to sum to one.

    Args:
        anchors: k_i, (t, d).
        v: (n, d).
        top_k: k; at most t are selected.

    Returns:
        Indices of experts, (n, k) int64, and their gates, (n, k) fp32. The oldest expert wins ties.
    """
    shares = (v @ anchors.T).softmax(-1)
    order = shares.sort(dim=-1, descending=True, stable=True)
    k = min(top_k, len(anchors))
    return order.indices[:, :k], order.values[:, :k]


def anchored_gates(anchors: Tensor, v: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """As `literal_gates`, but each gate is exactly 1/k: no later expert can change it."""
    experts, gates = literal_gates(anchors, v, top_k)
    return experts, torch.full_like(gates, 1.0 / gates.shape[1])
