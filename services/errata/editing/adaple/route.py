"""Which edits a query answers to. AdaPLE claims none: one weight version serves every request.

What remains is provenance (P10): an edit's rank-1 term adds r_j·(u_jᵀx), so its share in the
answer to an input key x, in units of its answer to its own key, is u_jᵀx / u_jᵀk_j.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def attribute(
    inputs: Tensor,
    attention_mask: Tensor,
    names: Sequence[str],
    directions: Tensor,
    threshold: float,
) -> list[list[str]]:
    """Names the edits whose share reaches the threshold at any real position of a row.

    Args:
        inputs: x of the last edited layer's down projection, (B, T, d_ff).
        attention_mask: (B, T); 0 on padding.
        names: n edits, in the order in which they shall be listed (newest first).
        directions: (d_ff, n) fp32, columns u_j / u_jᵀk_j.
        threshold: smallest share that counts.

    Returns:
        For each row, names in the given order.
    """
    rows: list[list[str]] = [[] for _ in range(inputs.shape[0])]
    if not names:
        return rows
    shares = inputs.float() @ directions  # (B, T, n)
    shares = shares.masked_fill(attention_mask[..., None] == 0, float("-inf"))
    hits = shares.amax(dim=1) >= threshold  # (B, n)
    for row, edit in hits.nonzero().tolist():
        rows[row].append(names[edit])
    return rows
