"""Cosines between AdaPLE's updates, before and after drop-and-rescale.

Independent masks multiply the cosine of any two updates by about 1 − p
(E⟨Δ̂₁, Δ̂₂⟩ = ⟨Δ₁, Δ₂⟩ while each norm grows by 1/√(1 − p)): a decrease to that value shows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.fusion import fuse
from errata.editing.adaple.solve import LowRankDelta
from errata.editing.lane.commits import Commit

_MAX_COMMITS = 100  # whose dense updates are in memory together


def update_cosines(commits: Sequence[Commit], config: AdapleConfig, layer: int) -> dict[str, Any]:
    """Cosines of all pairs of commits in one layer.

    Args:
        commits: at least two; of more than 100, an even selection.
        config: of the lane.
        layer: an edited layer.

    Returns:
        JSON: `layer`, `drop`, matrices `before` and `after`, their off-diagonal means
        `mean_before` and `mean_after`, and `mechanical`, (1 − p) · mean_before.
    """
    step = max(1, -(-len(commits) // _MAX_COMMITS))
    chosen = commits[::step]
    before, after = [], []
    for commit in chosen:
        tensors = commit.artifact.tensors
        whole = LowRankDelta(
            tensors[f"layer.{layer}.left"], tensors[f"layer.{layer}.right"]
        ).dense()
        seed = int(commit.artifact.metadata["seed"])
        fused = fuse(whole, whole, fusion=config.fusion, seed=seed, layer=layer, p=config.drop)
        before.append(_unit(whole))
        after.append(_unit(fused))
    cosines = [torch.stack(rows) @ torch.stack(rows).T for rows in (before, after)]
    means = [_off_diagonal_mean(matrix) for matrix in cosines]
    return {
        "layer": layer,
        "drop": config.drop,
        "before": cosines[0].tolist(),
        "after": cosines[1].tolist(),
        "mean_before": means[0],
        "mean_after": means[1],
        "mechanical": (1.0 - config.drop) * means[0],
    }


def _unit(delta: Tensor) -> Tensor:
    return torch.nn.functional.normalize(delta.reshape(-1), dim=0)


def _off_diagonal_mean(matrix: Tensor) -> float:
    size = len(matrix)
    return float((matrix.sum() - matrix.trace()) / (size * (size - 1)))
