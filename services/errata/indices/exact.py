"""Search of all keys by inner product, where the keys are; it keeps nothing of its own."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 16_384  # rows: their scores stay in the cache


def nearest_by_product(keys: Tensor, queries: Tensor, k: int) -> Tensor:
    """Numbers of the k rows with the highest inner products, by matrix products on their device.

    Args:
        keys: (m, d) fp32.
        queries: (n, d) fp32.
        k: at least 1.

    Returns:
        (n, k) int64 on the host; −1 where there are fewer rows.
    """
    queries = queries.detach().to(keys.device)
    parts = []
    for start in range(0, len(keys), _BLOCK):
        block = keys[start : start + _BLOCK].detach()
        best = (queries @ block.T).topk(min(k, len(block)), dim=1)
        parts.append((best.values, best.indices + start))
    if not parts:
        return torch.full((len(queries), k), -1)
    scores = torch.cat([values for values, _ in parts], dim=1)
    rows = torch.cat([indices for _, indices in parts], dim=1)
    found = rows.gather(1, scores.topk(min(k, scores.shape[1]), dim=1).indices).cpu()
    return torch.nn.functional.pad(found, (0, k - found.shape[1]), value=-1)


def nearest_of(keys: Tensor, queries: Tensor, proposed: Tensor, k: int) -> Tensor:
    """As `nearest_by_product`, of the rows that a first pass proposes for each query.

    Args:
        keys: (m, d) fp32, on the host.
        queries: (n, d) fp32.
        proposed: (n, c) int64, c ≥ k; −1 for none.
        k: at least 1.
    """
    candidates = keys.detach()[proposed.clamp(min=0)]  # (n, c, d)
    scores = torch.bmm(candidates, queries.detach().cpu()[:, :, None])[:, :, 0]
    best = scores.masked_fill(proposed < 0, -torch.inf).topk(k, dim=1).indices
    return proposed.gather(1, best)
