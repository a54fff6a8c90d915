"""Exact search of allocation codes by Hamming distance, on FAISS."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

KEPT_CODES = 4


class CodeIndex:
    """Finds the nearest allocation codes, exactly, whatever their number.

    All codes of a lane change with each of its commits, so each tensor of codes gets its own FAISS
    index. The most recent ones are kept, because older snapshots are still searched.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self._known: list[tuple[Tensor, Any]] = []

    def nearest(self, codes: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Distance and row of the nearest code of each query; the last row if several tie."""
        index = self._index_of(codes)
        padded = _padded(queries)
        distances, rows = index.search(padded, 1)
        # FAISS returns an arbitrary row of those that tie.
        newest = rows[:, 0].copy()
        for distance in np.unique(distances):
            same = np.flatnonzero(distances[:, 0] == distance)
            limits, _, found = index.range_search(padded[same], int(distance) + 1)
            newest[same] = np.maximum.reduceat(found, limits[:-1].astype(np.int64))
        return torch.from_numpy(distances[:, 0].astype(np.int64)), torch.from_numpy(newest)

    def _index_of(self, codes: Tensor) -> Any:
        for known, index in self._known:
            if known is codes:
                return index
        padded = _padded(codes)
        index = faiss.IndexBinaryFlat(8 * padded.shape[1])
        index.add(padded)
        self._known = [(codes, index), *self._known[: KEPT_CODES - 1]]
        return index


def _padded(codes: Tensor) -> Any:
    """Pads codes with zeros to whole 64-bit words, which FAISS compares fastest."""
    return torch.nn.functional.pad(codes, (0, -codes.shape[1] % 8)).contiguous().numpy()
