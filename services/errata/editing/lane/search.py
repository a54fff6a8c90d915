"""The search indices that routing uses; `errata.indices` implements them with FAISS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


@dataclass(eq=False, slots=True, weakref_slot=True)
class Lineage:
    """The history that snapshots share if they grew from one another.

    Attributes:
        cuts: lengths to which the newest snapshot was shortened, in chronological order. Rows
            before the shortest cut since a point in time have not changed since then.
    """

    cuts: list[int] = field(default_factory=list)


class SearchedRows(Protocol):
    """Vectors that an index searches: a snapshot that never changes."""

    @property
    def lineage(self) -> Lineage:
        """If two snapshots of one lineage have no cut between them, the longer only adds rows."""

    @property
    def keys(self) -> Tensor:
        """(n, d) fp32."""


class InnerProductIndex(Protocol):
    """Finds the rows with the highest inner products."""

    def nearest(self, rows: SearchedRows, queries: Tensor, k: int) -> Tensor:
        """Indices of the k best rows for each query, (n, k) int64; −1 if there are fewer rows.

        Args:
            rows: the rows to search; the index adds rows that it does not have yet, and removes
                rows that were cut. It can also search older snapshots.
            queries: (n, d) fp32.
            k: at least 1.
        """


def nearest_visible(
    index: InnerProductIndex, rows: SearchedRows, queries: Tensor, k: int, hidden: Sequence[int]
) -> Tensor:
    """As `InnerProductIndex.nearest`, without the rows that are hidden from the queries.

    Args:
        index: of the rows.
        rows: at least one.
        queries: (n, d) fp32.
        k: at least 1.
        hidden: numbers of rows, few.

    Returns:
        (n, k') int64 with k' ≤ k; −1 where there are fewer rows.
    """
    k = min(k, len(rows.keys))
    if not hidden:
        return index.nearest(rows, queries, k)
    found = index.nearest(rows, queries, min(k + len(hidden), len(rows.keys)))
    is_hidden = torch.isin(found, torch.tensor(hidden, device=found.device))
    first = is_hidden.byte().argsort(dim=1, stable=True)[:, :k]  # visible ones, in their order
    return found.gather(1, first).masked_fill(is_hidden.gather(1, first), -1)


class HammingIndex(Protocol):
    """Finds the codes with the lowest Hamming distance."""

    def nearest(self, codes: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Distance and row of the nearest code of each query; of equal distances the last row.

        Args:
            codes: (m, bytes) uint8, at least one; the index adds them when it first sees this
                tensor, which must not change afterwards.
            queries: (n, bytes) uint8.

        Returns:
            Distances and rows, (n,) int64 each.
        """


class Indices(Protocol):
    """Creates indices."""

    def inner_product(self) -> InnerProductIndex:
        """An empty index."""

    def hamming(self) -> HammingIndex:
        """An empty index."""
