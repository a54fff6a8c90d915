"""Drop and rescale: which entries of a delta are kept, the same on every machine.

Entry i of a mask is a function of (seed, layer, i) alone, so CPU and GPU agree bit for bit and
nothing but the seed has to travel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from errata.editing.random_bits import MASK32, philox


def drop_mask(
    shape: tuple[int, int], *, seed: int, layer: int, p: float, device: torch.device
) -> Tensor:
    """The entries that are dropped, each with probability p.

    Args:
        shape: (d, d_ff).
        seed: of the commit; its low 64 bits count.
        layer: each layer has its own mask, since one shared mask would cancel the effect.
        p: share to drop, 0 ≤ p < 1, resolved to 2⁻³².
        device: where the mask is made; the bits do not depend on it.

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
    """What is added to the weight in place of Δ.

    `dr` is the paper's Δ̂ = (1 − M) ⊙ Δ / (1 − p); `topk` keeps the 1 − p largest entries of
    `whole` as they are; `average` is the mean pW + (1 − p)(W + Δ) of the weights before and after.

    Args:
        delta: (d, d_ff), Δ, perhaps without the columns of reverted edits.
        whole: (d, d_ff), Δ of the whole commit: a revert must not change which entries are kept.
        fusion: `none`, `dr`, `topk` or `average`.
        seed: of the commit.
        layer: 0-based.
        p: share to drop; for `average`, the weight of what was before.
    """
    if fusion == "none" or p == 0.0:
        return delta
    if fusion == "average":
        return (1.0 - p) * delta
    if fusion == "dr":
        shape = (delta.shape[0], delta.shape[1])
        dropped = drop_mask(shape, seed=seed, layer=layer, p=p, device=delta.device)
        return delta.masked_fill(dropped, 0.0) / (1.0 - p)
    kept = max(1, round((1.0 - p) * whole.numel()))
    threshold = whole.abs().reshape(-1).kthvalue(whole.numel() - kept + 1).values
    return delta.masked_fill(whole.abs() < threshold, 0.0)
