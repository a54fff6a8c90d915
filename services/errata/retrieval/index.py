"""Search indices over FAISS."""

from __future__ import annotations

from typing import Any

import faiss
import torch
from torch import Tensor

from errata.editing.search import Lineage, Rows


class FlatIndex:
    """Exact inner products; takes over new rows when it is asked."""

    def __init__(self) -> None:
        """Empty."""
        self._index: Any = None
        self._lineage: Lineage | None = None
        self._num_cuts = 0

    def nearest(self, rows: Rows, queries: Tensor, k: int) -> Tensor:
        """Numbers of the k rows with the highest inner products, (n, k) int64; −1 for none.

        Rows that came since the last call are added, those that were taken back are removed; a
        new lineage is indexed afresh.
        """
        self._take_over(rows)
        _, found = self._index.search(_host(queries), k)
        return torch.from_numpy(found)

    def _take_over(self, rows: Rows) -> None:
        keys, lineage = rows.keys, rows.lineage
        if lineage is not self._lineage:
            self._index = faiss.IndexFlatIP(keys.shape[1])
            self._lineage, self._num_cuts = lineage, len(lineage.cuts)
        known = int(self._index.ntotal)
        stays = min([known, *lineage.cuts[self._num_cuts :]])
        self._num_cuts = len(lineage.cuts)
        if stays < known:
            self._index.remove_ids(faiss.IDSelectorRange(stays, known))
        if stays < len(keys):
            self._index.add(_host(keys[stays:]))


class FaissIndices:
    """Makes FAISS indices."""

    def inner_product(self) -> FlatIndex:
        """An exact one."""
        return FlatIndex()


def _host(vectors: Tensor) -> Any:
    return vectors.detach().float().cpu().contiguous().numpy()
