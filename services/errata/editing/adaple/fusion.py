"""Drop and rescale: selects the entries of a delta that are kept, the same on every machine.

Entry i of a mask is a function of (seed, layer, i) alone, so CPU and GPU agree bit for bit and
an artifact needs only the seed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from errata.editing.random_bits import MASK32, philox


def drop_mask(
    shape: tuple[int, int], *, seed: int, layer: int, p: float, device: torch.device
) -> Tensor:
    """Selects the entries to drop, each with probability p.

    Args:
        shape: (d, d_ff).
        seed: of the commit; only its low 64 bits are used.
        layer: each layer has its own mask, because one shared mask would cancel the effect.
        p: share to drop, 0 ≤ p < 1, with a resolution of 2⁻³².
        device: of the mask; the bits do not depend on it.

    Returns:
        (d, d_ff) bool, true = dropped.
    """
    size = shape[0] * shape[1]
    index = torch.arange((size + 3) // 4, device=device)
    zero = torch.zeros_like(index)
    words = philox(
        (index & MASK32, index >> 32, zero + layer, zero), (seed & MASK32, seed >> 32 & MASK32)
    )
    return words.reshape(-1)[:size].reshape(shape) < int(p * 2**32)


def fuse(delta: Tensor, whole: Tensor, *, fusion: str, seed: int, layer: int, p: float) -> Tensor:
    """Computes the update that is added to the weight in place of Δ.

    `dr` is the paper's Δ̂ = (1 − M) ⊙ Δ / (1 − p); `topk` keeps the 1 − p largest entries of
    `whole` as they are; `average` is the mean pW + (1 − p)(W + Δ) of the weights before and after.

    Args:
        delta: (d, d_ff), Δ, or Δ without the columns of reverted edits.
        whole: (d, d_ff), Δ of the whole commit: a revert must not change which entries are kept.
        fusion: `none`, `dr`, `topk` or `average`.
        seed: of the commit.
        layer: 0-based.
        p: share to drop; for `average`, the share of the weights before.
    """
    if fusion == "none" or p == 0.0:
        return delta
    if fusion == "average":
        return (1.0 - p) * delta
    if fusion == "dr":
        shape = (delta.shape[0], delta.shape[1])
        dropped = drop_mask(shape, seed=seed, layer=layer, p=p, device=delta.device)
        return delta.masked_fill(dropped, 0.0) / (1.0 - p)
    num_kept = max(1, round((1.0 - p) * whole.numel()))
    threshold = whole.abs().reshape(-1).kthvalue(whole.numel() - num_kept + 1).values
    return delta.masked_fill(whole.abs() < threshold, 0.0)
