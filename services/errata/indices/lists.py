"""First pass: 4-bit codes of projected keys, in inverted lists, on FAISS."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from torch import Tensor

from errata.indices.first_pass import Projection

WIDTH = 128
ROWS_PER_LIST = 6  # of the first rows; lists fill as the lane grows
_DIMENSIONS_PER_CODE = 2
_CODE_BITS = 4
CODE_BYTES = WIDTH // _DIMENSIONS_PER_CODE * _CODE_BITS // 8
_PROBED_SHARE = 0.2  # of the lists
_FEWEST_PROBED = 32
_TRAINED_ON = 32_768  # rows, for the codes
_ADDED_AT_ONCE = 32_768
_NUMBER_BYTES = 8  # of a row's number, beside its code
_SEED = 0


class Lists:
    """Scans the lists whose centres are nearest to the query.

    The centres are some of the first rows, drawn at random, not means. Lists are then a bit less
    even, but the centres are the same numbers on every CPU, and there is nothing to train.
    """

    num_proposed = 128

    def __init__(self, first: Tensor) -> None:
        """Makes centres and codes from the lineage's first rows, and adds none of them.

        Args:
            first: (m, d) fp32.
        """
        self._projection = Projection(first, WIDTH)
        width = self._projection.width
        num_lists = max(1, len(first) // ROWS_PER_LIST)
        drawn = np.sort(np.random.default_rng(_SEED).permutation(len(first))[:num_lists])
        centres = self._projection.keys(first[drawn])
        faiss.normalize_L2(centres)
        self._centres = faiss.IndexFlatIP(width)  # held here: FAISS does not keep it alive
        self._centres.add(centres)
        self._index = faiss.IndexIVFPQFastScan(
            self._centres,
            width,
            num_lists,
            max(1, width // _DIMENSIONS_PER_CODE),
            _CODE_BITS,
            faiss.METRIC_INNER_PRODUCT,
        )
        self._index.by_residual = False
        self._index.pq.cp.min_points_per_centroid = 1  # else it warns of few rows
        self._index.train(self._projection.keys(first[:_TRAINED_ON]))
        self._num_probed = max(_FEWEST_PROBED, round(_PROBED_SHARE * num_lists))

    @property
    def num_bytes(self) -> int:
        """As `FirstPass.num_bytes`."""
        centres = int(self._centres.ntotal * self._centres.code_size)
        return centres + int(self._index.ntotal) * (int(self._index.code_size) + _NUMBER_BYTES)

    def add(self, keys: Tensor) -> None:
        """As `FirstPass.add`."""
        for part in keys.split(_ADDED_AT_ONCE):
            self._index.add(self._projection.keys(part))

    def cut(self, num_rows: int) -> bool:
        """As `FirstPass.cut`; always possible."""
        self._index.remove_ids(faiss.IDSelectorRange(num_rows, self._index.ntotal))
        return True

    def propose(self, queries: Tensor, count: int, num_rows: int | None) -> Any:
        """As `FirstPass.propose`."""
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = self._num_probed
        if num_rows is not None:
            visible = faiss.IDSelectorRange(0, num_rows)  # held here, too
            parameters.sel = visible
        return self._index.search(self._projection.queries(queries), count, params=parameters)[1]
