"""Which edits a query answers to. AdaPLE claims none: one weight version serves every request.

What remains is provenance (P10): an edit's rank-1 term adds r_j·(u_jᵀx), so its share in the
answer to an input key x, in units of its answer to its own key, is u_jᵀx / u_jᵀk_j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.model.devices import has_fast_bf16

# bf16 keeps 8 bits: two rounded factors and a rounded sum are off by less than 3·2⁻⁸ of |x|·|d|,
# and the result by 2⁻⁸ of itself. Twice that is on the safe side.
_COARSE_ERROR = 2.0**-5


@dataclass(frozen=True, eq=False, slots=True)
class Directions:
    """The input directions that edits answer to.

    Attributes:
        names: n edits, in the order in which they shall be listed (newest first).
        exact: (d_ff, n) fp32, columns d_j = u_j / u_jᵀk_j.
        coarse: the same in bf16, to rule out nearly all of them cheaply; None where the machine
            has no fast product for it.
        norms: (n,) fp32, |d_j|.
    """

    names: tuple[str, ...]
    exact: Tensor
    coarse: Tensor | None
    norms: Tensor

    @classmethod
    def of(cls, names: Sequence[str], exact: Tensor) -> Directions:
        """Prepares the directions of `names`."""
        coarse = exact.bfloat16() if has_fast_bf16(exact.device) else None
        return cls(tuple(names), exact, coarse, exact.norm(dim=0))


def attribute(
    inputs: Tensor, attention_mask: Tensor, directions: Directions, threshold: float
) -> list[list[str]]:
    """Names the edits whose share reaches the threshold at any real position of a row.

    Args:
        inputs: x of the last edited layer's down projection, (B, T, d_ff).
        attention_mask: (B, T); 0 on padding.
        directions: of n edits.
        threshold: smallest share that counts.

    Returns:
        For each row, names in the order of `directions`.
    """
    rows: list[list[str]] = [[] for _ in range(inputs.shape[0])]
    real = attention_mask != 0
    x = inputs[real].float()  # (N, d_ff)
    if not directions.names or not len(x):
        return rows
    columns = _candidates(x, directions, threshold)
    hits = x @ directions.exact[:, columns] >= threshold  # (N, candidates)
    place, column = hits.nonzero(as_tuple=True)
    row = real.nonzero()[:, 0][place]
    found = torch.stack([row, columns[column]], dim=1).unique(dim=0)  # sorted
    for index, edit in found.tolist():
        rows[index].append(directions.names[edit])
    return rows


def _candidates(x: Tensor, directions: Directions, threshold: float) -> Tensor:
    """Columns that may reach the threshold somewhere: all of them, or those that bf16 leaves."""
    if directions.coarse is None:
        return torch.arange(len(directions.names), device=x.device)
    highest = (x.bfloat16() @ directions.coarse).amax(dim=0).float()  # (n,)
    margin = _COARSE_ERROR * (x.norm(dim=1).max() * directions.norms + highest.abs())
    reaching: Tensor = highest + margin >= threshold
    return reaching.nonzero().squeeze(-1)
