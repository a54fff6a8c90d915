"""The contract of first passes: small codes of the keys that propose rows.

A first pass is made from a lineage's first rows, and follows the rows that come after them. What
it makes depends on the rows and their order alone, neither on the time nor on the number of
threads. So all replicas of a log propose the same rows (P7), up to the rounding of their CPUs.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

_SAMPLED = 32_768  # rows from which principal dimensions are computed


class FirstPass(Protocol):
    """Proposes rows among which the best ones are."""

    @property
    def num_proposed(self) -> int:
        """Rows that it proposes for a query, which are then scored exactly."""

    @property
    def num_bytes(self) -> int:
        """Memory that its rows take."""

    def add(self, keys: Tensor) -> None:
        """Adds the next rows, (u, d) fp32."""

    def cut(self, num_rows: int) -> bool:
        """Removes all rows but the first; False if it cannot, and must be made again."""

    def propose(self, queries: Tensor, count: int, num_rows: int | None) -> Any:
        """The rows with the highest approximate inner products.

        Args:
            queries: (n, d) fp32.
            count: of rows for each query.
            num_rows: only that many of the first rows count; None for all.

        Returns:
            (n, count) int64 array, or one with more columns; −1 for none. None if all rows must be
            searched instead.
        """


class Projection:
    """Projects keys and queries to fewer dimensions, so that rows rank nearly as before.

    The dimensions are the principal ones of the first rows around their mean: what all keys share
    adds the same to all scores of a query. They are then rotated at random, because codes treat
    all dimensions alike. For vectors without principal dimensions, it is a random projection.
    """

    def __init__(self, keys: Tensor, width: int) -> None:
        """Learns the dimensions.

        Args:
            keys: (m, d) fp32, the lineage's first rows.
            width: of the results; d, if that is less.
        """
        sample = keys[:_SAMPLED].detach()
        self._mean = sample.mean(dim=0)
        self.width = width = min(width, keys.shape[1])
        around = sample - self._mean
        _, directions = torch.linalg.eigh(around.T @ around)
        generator = torch.Generator().manual_seed(0)
        rotation = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
        self._matrix = directions[:, -width:] @ rotation  # (d, width)

    def keys(self, keys: Tensor) -> Any:
        """(u, width) fp32 array of keys (u, d)."""
        return ((keys.detach() - self._mean) @ self._matrix).contiguous().numpy()

    def queries(self, queries: Tensor) -> Any:
        """(n, width) fp32 array of queries (n, d)."""
        return (queries.detach().cpu() @ self._matrix).contiguous().numpy()
