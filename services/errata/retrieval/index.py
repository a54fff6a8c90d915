"""Search indices over FAISS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import faiss
import torch
from torch import Tensor

from errata.editing.search import Lineage, Rows


@dataclass(slots=True)
class _Known:
    """What the index has of one lineage."""

    index: Any
    num_cuts: int


class FlatIndex:
    """Exact inner products; takes over new rows when it is asked.

    It keeps one FAISS index for each lineage that somebody still holds a snapshot of.
    """

    def __init__(self) -> None:
        """Empty."""
        self._known: WeakKeyDictionary[Lineage, _Known] = WeakKeyDictionary()

    def nearest(self, rows: Rows, queries: Tensor, k: int) -> Tensor:
        """Numbers of the k rows with the highest inner products, (n, k) int64; −1 for none.

        Rows that came since the last call are added, those that were cut are removed.
        """
        index, n = self._taken_over(rows), len(rows.keys)
        parameters = None
        visible = faiss.IDSelectorRange(0, n)  # FAISS does not keep it alive
        if index.ntotal > n:  # an older snapshot
            parameters = faiss.SearchParameters()
            parameters.sel = visible
        _, found = index.search(_host(queries), k, params=parameters)
        return torch.from_numpy(found)

    def _taken_over(self, rows: Rows) -> Any:
        keys, lineage = rows.keys, rows.lineage
        known = self._known.get(lineage)
        if known is None:
            known = _Known(faiss.IndexFlatIP(keys.shape[1]), len(lineage.cuts))
            self._known[lineage] = known
        size = int(known.index.ntotal)
        stays = min([size, *lineage.cuts[known.num_cuts :]])
        known.num_cuts = len(lineage.cuts)
        if stays < size:
            known.index.remove_ids(faiss.IDSelectorRange(stays, size))
        if stays < len(keys):
            known.index.add(_host(keys[stays:]))
        return known.index


class FaissIndices:
    """Makes FAISS indices."""

    def inner_product(self) -> FlatIndex:
        """An exact one."""
        return FlatIndex()


def _host(vectors: Tensor) -> Any:
    return vectors.detach().float().cpu().contiguous().numpy()
