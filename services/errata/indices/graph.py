"""First pass: a graph of neighbours over 8-bit codes of projected keys (HNSW), on FAISS."""

from __future__ import annotations

from typing import Any

import faiss
from torch import Tensor

from errata.indices.first_pass import Projection

WIDTH = 128
NEIGHBOURS = 32
_EFFORT_WHEN_MADE = 60
_EFFORT = 256
_LINK_BYTES = 4
_FAISS: Any = faiss  # its type stubs know no part of HNSW


class Graph:
    """Walks from neighbour to neighbour towards the query.

    Each row is added in its turn, by one thread: else FAISS shuffles the rows of a call, and its
    threads race. So a graph is slow to make. It cannot forget rows.
    """

    num_proposed = 64

    def __init__(self, first: Tensor) -> None:
        """Makes the codes from the lineage's first rows, and adds none of them.

        Args:
            first: (m, d) fp32.
        """
        self._projection = Projection(first, WIDTH)
        self._index = _FAISS.IndexHNSWSQ(
            self._projection.width,
            faiss.ScalarQuantizer.QT_8bit,
            NEIGHBOURS,
            faiss.METRIC_INNER_PRODUCT,
        )
        self._index.hnsw.efConstruction = _EFFORT_WHEN_MADE
        self._index.train(self._projection.keys(first))

    @property
    def num_bytes(self) -> int:
        """As `FirstPass.num_bytes`."""
        links = int(self._index.hnsw.neighbors.size()) * _LINK_BYTES
        return links + int(self._index.ntotal * self._projection.width)

    def add(self, keys: Tensor) -> None:
        """As `FirstPass.add`."""
        vectors = self._projection.keys(keys)
        for row in range(len(vectors)):
            self._index.add(vectors[row : row + 1])

    def cut(self, num_rows: int) -> bool:
        """As `FirstPass.cut`; never possible."""
        return False

    def propose(self, queries: Tensor, count: int, num_rows: int | None) -> Any:
        """As `FirstPass.propose`."""
        parameters = _FAISS.SearchParametersHNSW()
        parameters.efSearch = max(_EFFORT, count)
        if num_rows is not None:
            visible = faiss.IDSelectorRange(0, num_rows)  # held here: FAISS does not keep it alive
            parameters.sel = visible
        return self._index.search(self._projection.queries(queries), count, params=parameters)[1]
