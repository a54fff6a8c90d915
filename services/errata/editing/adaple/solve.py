"""The closed form of one layer's update, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from errata.errors import SingularCovarianceError


@dataclass(frozen=True, slots=True)
class LowRankDelta:
    """An update Δ = R Uᵀ; column j of both factors belongs to edit j.

    Attributes:
        left: R, (d, u).
        right: U = (C + γK₁K₁ᵀ)⁻¹K₁, (d_ff, u).
    """

    left: Tensor
    right: Tensor

    def dense(self) -> Tensor:
        """Δ, (d, d_ff), in the factors' dtype."""
        return self.left @ self.right.T


def solve_delta(
    keys: Tensor, residual: Tensor, covariance: Tensor, *, gamma: float
) -> LowRankDelta:
    """Solves Δ = R K₁ᵀ (C + γK₁K₁ᵀ)⁻¹.

    With R = V₂ − V₁, γ = 1 is MEMIT and γ = 0 the exact minimiser of the paper's Eq. 3;
    R = V₂ − 3V₁, γ = 2 is its printed Eq. 4, which negates the old value because of a sign slip;
    γ = 1 − β with R = V₂ − V₁ is `erase`.

    Args:
        keys: K₁, (d_ff, u), float64.
        residual: R, (d, u), float64.
        covariance: C = λ·E[kkᵀ] (+ ridge), (d_ff, d_ff), float64, positive definite.
        gamma: weight of the new keys in the system.

    Returns:
        Factors, float64; the inverse is never formed.

    Raises:
        SingularCovarianceError: the system is not positive definite; no weight has changed.
    """
    factor, info = torch.linalg.cholesky_ex(covariance + gamma * (keys @ keys.T))
    right = torch.cholesky_solve(keys, factor) if int(info) == 0 else None
    if right is None or not bool(torch.isfinite(right).all()):
        raise SingularCovarianceError(
            f"the covariance system of size {covariance.shape[0]} is not positive definite; "
            "use more text for the statistics or a larger ridge.",
            minor=int(info),
        )
    return LowRankDelta(left=residual, right=right)
