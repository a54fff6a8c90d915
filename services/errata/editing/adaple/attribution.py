"""Which edits shaped an answer. AdaPLE edits claim no query: all requests share the weights.

The provenance (P10) of an answer is still known: an edit's rank-1 term adds r_j·(u_jᵀx), so its
response to an input key x, relative to its response to its own key, is u_jᵀx / u_jᵀk_j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.model.devices import has_fast_bf16

# bf16 has 8 significant bits: two rounded factors and a rounded sum cause an error below 3·2⁻⁸ of
# |x|·|d|, and rounding the result causes 2⁻⁸ of its value. The bound is twice the sum of both.
_COARSE_ERROR = 2.0**-5


@dataclass(frozen=True, eq=False, slots=True)
class Directions:
    """The input directions that edits respond to.

    Attributes:
        names: n edits, in the order in which they are listed (newest first).
        exact: (d_ff, n) fp32, columns d_j = u_j / u_jᵀk_j.
        coarse: `exact` in bf16, to rule out most edits cheaply; None where the machine has no fast
            bf16 product.
        norms: (n,) fp32, |d_j|.
    """

    names: tuple[str, ...]
    exact: Tensor
    coarse: Tensor | None
    norms: Tensor

    @classmethod
    def of(cls, names: Sequence[str], exact: Tensor) -> Directions:
        """Computes `coarse` and `norms` of the directions of `names`."""
        coarse = exact.bfloat16() if has_fast_bf16(exact.device) else None
        return cls(tuple(names), exact, coarse, exact.norm(dim=0))


def attribute(
    inputs: Tensor, attention_mask: Tensor, directions: Directions, threshold: float
) -> list[list[str]]:
    """Names the edits whose share reaches the threshold at any non-padding position of a row.

    Args:
        inputs: x of the last edited layer's down projection, (B, T, d_ff).
        attention_mask: (B, T); 0 on padding.
        directions: of n edits.
        threshold: minimum share of an edit that is named.

    Returns:
        For each row, names in the order of `directions`.
    """
    rows: list[list[str]] = [[] for _ in range(inputs.shape[0])]
    is_token = attention_mask != 0
    row_of = is_token.nonzero()[:, 0]
    for row, edit in responses(inputs[is_token], row_of, directions, threshold):
        rows[row].append(directions.names[edit])
    return rows


def responses(
    inputs: Tensor, row_of: Tensor, directions: Directions, threshold: float
) -> list[tuple[int, int]]:
    """Which rows respond to which edits.

    Args:
        inputs: x of N tokens, (N, d_ff).
        row_of: (N,) int64, the row of each token.
        directions: of n edits.
        threshold: minimum share.

    Returns:
        Pairs (row, index of an edit), sorted, each once.
    """
    if not directions.names or not len(inputs):
        return []
    x = inputs.float()
    columns = _candidates(x, directions, threshold)
    hits = x @ directions.exact[:, columns] >= threshold  # (N, candidates)
    position, column = hits.nonzero(as_tuple=True)
    pairs = torch.stack([row_of[position], columns[column]], dim=1).unique(dim=0)
    return [(row, edit) for row, edit in pairs.tolist()]


def _candidates(x: Tensor, directions: Directions, threshold: float) -> Tensor:
    """Columns that may reach the threshold: all, or those that bf16 does not rule out."""
    if directions.coarse is None:
        return torch.arange(len(directions.names), device=x.device)
    maximum = (x.bfloat16() @ directions.coarse).amax(dim=0).float()  # (n,)
    margin = _COARSE_ERROR * (x.norm(dim=1).max() * directions.norms + maximum.abs())
    may_reach: Tensor = maximum + margin >= threshold
    return may_reach.nonzero().squeeze(-1)
