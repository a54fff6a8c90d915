"""Searches allocation codes by Hamming distance, exactly (FAISS)."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

_KEPT_CODES = 4


class CodeIndex:
    """Finds the nearest allocation codes, exactly, whatever their number.

    All codes of a lane change with each of its commits, so an index is made for each tensor of
    codes; those of the last few are kept, for older snapshots are still asked.
    """

    def __init__(self) -> None:
        """Empty."""
        self._known: list[tuple[Tensor, Any]] = []

    def nearest(self, codes: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Distance and row of the nearest code of each query; of equal ones the last row."""
        index = self._index_of(codes)
        asked = _in_words(queries)
        distances, rows = index.search(asked, 1)
        # FAISS gives any row of those at one distance.
        newest = rows[:, 0].copy()
        for distance in np.unique(distances):
            same = np.flatnonzero(distances[:, 0] == distance)
            limits, _, found = index.range_search(asked[same], int(distance) + 1)
            newest[same] = np.maximum.reduceat(found, limits[:-1].astype(np.int64))
        return torch.from_numpy(distances[:, 0].astype(np.int64)), torch.from_numpy(newest)

    def _index_of(self, codes: Tensor) -> Any:
        for known, index in self._known:
            if known is codes:
                return index
        padded = _in_words(codes)
        index = faiss.IndexBinaryFlat(8 * padded.shape[1])
        index.add(padded)
        self._known = [(codes, index), *self._known[: _KEPT_CODES - 1]]
        return index


def _in_words(codes: Tensor) -> Any:
    """Codes with zeros behind them up to whole words of 64 bits, which FAISS compares at once."""
    return torch.nn.functional.pad(codes, (0, -codes.shape[1] % 8)).contiguous().numpy()
