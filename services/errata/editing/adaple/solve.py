"""The closed forms of one layer's update, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from errata.errors import SingularCovarianceError

_TIES = 0.01  # ridge of the keys' own Gram matrix, as a multiple of its mean diagonal


@dataclass(frozen=True, slots=True)
class LowRankDelta:
    """An update Δ = R Uᵀ; column j of both factors belongs to edit j.

    Attributes:
        left: R, (d, u).
        right: U, (d_ff, u); (C + γK₁K₁ᵀ)⁻¹K₁ in MEMIT.
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
    return LowRankDelta(residual, _inverse_times(covariance + gamma * (keys @ keys.T), keys))


def solve_equality(keys: Tensor, residual: Tensor, covariance: Tensor) -> LowRankDelta:
    """Solves min tr(Δ C Δᵀ) subject to Δ K₁ = R: Δ = R (K₁ᵀC⁻¹K₁)⁻¹ K₁ᵀC⁻¹ (ROME; EMMET).

    Edits with nearly equal keys cannot all have their own value: a ridge of `_TIES` lets them
    share one, instead of letting Δ grow without bound.

    Args:
        keys: K₁, (d_ff, u), float64.
        residual: R, (d, u), float64: what the layer's outputs change by.
        covariance: C, (d_ff, d_ff), float64, positive definite.

    Raises:
        SingularCovarianceError: C is not positive definite.
    """
    whitened = _inverse_times(covariance, keys)
    gram = keys.T @ whitened  # (u, u)
    ridge = _TIES * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    return LowRankDelta(residual, torch.linalg.solve(gram + ridge, whitened, left=False))


def solve_in_null_space(
    keys: Tensor,
    residual: Tensor,
    second_moment: Tensor,
    earlier: Tensor | None,
    *,
    threshold: float,
    ridge: float,
) -> LowRankDelta:
    """Solves Δ = R K₁ᵀP (KₚKₚᵀP + K₁K₁ᵀP + ρI)⁻¹ (AlphaEdit, Fang et al. 2025).

    P = BBᵀ projects onto the eigenvectors B of E[kkᵀ] with small eigenvalues, so in their
    coordinates U = B (Bᵀ(KₚKₚᵀ + K₁K₁ᵀ)B + ρI)⁻¹ BᵀK₁.

    Args:
        keys: K₁, (d_ff, u), float64.
        residual: R, (d, u), float64.
        second_moment: E[kkᵀ], (d_ff, d_ff), float64.
        earlier: KₚKₚᵀ of earlier edits, or None.
        threshold: largest eigenvalue of a kept direction, as a multiple of the mean.
        ridge: ρ > 0.

    Raises:
        SingularCovarianceError: no eigenvalue is that small.
    """
    values, vectors = torch.linalg.eigh(second_moment)
    basis = vectors[:, values < threshold * values.mean()]  # (d_ff, r)
    if basis.shape[1] == 0:
        raise SingularCovarianceError(
            f"text uses every direction of the keys: no eigenvalue is below {threshold} of the "
            "mean; use a larger null_threshold.",
            minor=0,
        )
    inside = basis.T @ keys
    matrix = inside @ inside.T + ridge * torch.eye(len(inside)).to(keys)
    if earlier is not None:
        matrix = matrix + basis.T @ earlier.to(keys) @ basis
    return LowRankDelta(residual, basis @ _inverse_times(matrix, inside))


def whitened_norms(keys: Tensor, covariance: Tensor) -> Tensor:
    """kᵀC⁻¹k of each column of K₁, (u,) float64.

    Raises:
        SingularCovarianceError: C is not positive definite.
    """
    return (keys * _inverse_times(covariance, keys)).sum(0)


def _inverse_times(matrix: Tensor, columns: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    found = torch.cholesky_solve(columns, factor) if int(info) == 0 else None
    if found is None or not bool(torch.isfinite(found).all()):
        raise SingularCovarianceError(
            f"the covariance system of size {matrix.shape[0]} is not positive definite; "
            "use more text for the statistics or a larger ridge.",
            minor=int(info),
        )
    return found
