"""What routing asks of a search index; `errata.retrieval` has the FAISS ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(eq=False, slots=True, weakref_slot=True)
class Lineage:
    """What snapshots share that grew out of one another.

    Attributes:
        cuts: lengths to which the newest snapshot was taken back, in order of time. Rows before
            the shortest of the cuts since a moment are those of that moment.
    """

    cuts: list[int] = field(default_factory=list)


class Rows(Protocol):
    """Vectors that an index searches: a snapshot that never changes."""

    @property
    def lineage(self) -> Lineage:
        """Of two snapshots of one lineage without a cut between, the longer has only more rows."""

    @property
    def keys(self) -> Tensor:
        """(n, d) fp32."""


class InnerProductIndex(Protocol):
    """Finds the rows with the highest inner products."""

    def nearest(self, rows: Rows, queries: Tensor, k: int) -> Tensor:
        """Numbers of k rows for each query, (n, k) int64; −1 where there is none.

        Args:
            rows: what is searched; the index takes over what it does not know yet, and forgets
                what was cut. Older snapshots can be searched as well.
            queries: (n, d) fp32.
            k: at least 1.
        """


class HammingIndex(Protocol):
    """Finds the codes with the lowest Hamming distance."""

    def nearest(self, codes: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Distance and row of the nearest code of each query; of equal ones the last row.

        Args:
            codes: (m, bytes) uint8, at least one; the index takes them over when it first sees
                this tensor, which must not change afterwards.
            queries: (n, bytes) uint8.

        Returns:
            (n,) int64 twice.
        """


class Indices(Protocol):
    """Makes indices."""

    def inner_product(self) -> InnerProductIndex:
        """An empty one."""

    def hamming(self) -> HammingIndex:
        """An empty one."""
