"""Search of keys by inner product, on FAISS: exact, or by inverted lists from a size on.

Keys on a GPU are searched there, all of them, by one matrix product.

The index only proposes candidates; the caller scores them again, exactly.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import faiss
import torch
from torch import Tensor

from errata.editing.lane.search import Lineage, SearchedRows

APPROXIMATE_FROM = 100_000
ROWS_PER_LIST = 100
_PROBED_SHARE = 0.02  # of the lists
_FEWEST_PROBED = 8
_SAMPLES_PER_LIST = 40


@dataclass(slots=True)
class _Known:
    """The index of one lineage.

    Attributes:
        exact: FAISS index of all rows; None once `lists` replaces it.
        lists: inverted lists; None while there are few rows, or while they are being made.
        size: number of rows in the index.
        num_cuts: number of the lineage's cuts that were applied.
        making: lists that are being made; None if there are none.
    """

    exact: Any
    lists: Any = None
    size: int = 0
    num_cuts: int = 0
    making: _Making | None = None


@dataclass(slots=True)
class _Making:
    """Inverted lists that a thread makes from a copy of the rows, while searches continue."""

    num_rows: int
    num_cuts: int
    done: threading.Event = field(default_factory=threading.Event)
    lists: Any = None


class KeyIndex:
    """Proposes the rows with the highest inner products; each search adds new rows first.

    It keeps one FAISS index for each lineage that is still referenced. From `approximate_from`
    rows on, a separate thread makes inverted lists, which then replace the search of all rows.
    Their centroids come only from the lineage's first rows, so that all replicas of a log have the
    same centroids, whenever they started.
    """

    def __init__(self, approximate_from: int = APPROXIMATE_FROM) -> None:
        """Starts empty.

        Args:
            approximate_from: number of rows from which inverted lists are used.
        """
        self._approximate_from = approximate_from
        self._known: WeakKeyDictionary[Lineage, _Known] = WeakKeyDictionary()

    def nearest(self, rows: SearchedRows, queries: Tensor, k: int) -> Tensor:
        """Numbers of the k rows with the highest inner products, (n, k) int64; −1 for none.

        It first adds the rows that are new since the last call, and removes those that were cut.
        """
        if rows.keys.device.type != "cpu":
            return nearest_by_product(rows.keys, queries, k)
        known, n = self._updated(rows), len(rows.keys)
        visible = faiss.IDSelectorRange(0, n)  # held here, because FAISS does not keep it alive
        index = known.exact if known.lists is None else known.lists
        parameters: Any = None
        if known.lists is not None:
            parameters = faiss.SearchParametersIVF()
            parameters.nprobe = max(_FEWEST_PROBED, round(_PROBED_SHARE * index.nlist))
        elif known.size > n:
            parameters = faiss.SearchParameters()
        if parameters is not None and known.size > n:  # an older snapshot
            parameters.sel = visible
        _, found = index.search(_host(queries), k, params=parameters)
        return torch.from_numpy(found)

    def wait_for_lists(self) -> None:
        """Returns once no lists are being made; the next search uses the new ones."""
        for known in list(self._known.values()):
            if known.making is not None:
                known.making.done.wait()

    def _updated(self, rows: SearchedRows) -> _Known:
        keys, lineage = rows.keys, rows.lineage
        known = self._known.get(lineage)
        if known is None:
            known = _Known(faiss.IndexFlatIP(keys.shape[1]), num_cuts=len(lineage.cuts))
            self._known[lineage] = known
        self._adopt_lists(known, rows)
        kept = min([known.size, *lineage.cuts[known.num_cuts :]])
        known.num_cuts = len(lineage.cuts)
        index = known.exact if known.lists is None else known.lists
        if kept < known.size:
            index.remove_ids(faiss.IDSelectorRange(kept, known.size))
            known.size = kept
        if known.size < len(keys):
            _add(index, keys, known.size)
            known.size = len(keys)
        if known.lists is None and known.making is None and known.size >= self._approximate_from:
            known.making = self._make_lists(keys, len(lineage.cuts))
        return known

    def _adopt_lists(self, known: _Known, rows: SearchedRows) -> None:
        """Replaces the exact index by finished lists, if none of their rows was cut."""
        making = known.making
        if making is None or not making.done.is_set():
            return
        known.making = None
        cuts = rows.lineage.cuts[making.num_cuts :]
        if making.lists is not None and min([making.num_rows, *cuts]) == making.num_rows:
            known.lists, known.exact = making.lists, None
            known.size, known.num_cuts = making.num_rows, making.num_cuts

    def _make_lists(self, keys: Tensor, num_cuts: int) -> _Making:
        making = _Making(len(keys), num_cuts)
        # A copy, because the memory behind these rows may be written while the thread reads.
        threading.Thread(
            target=_fill, args=(making, _host(keys).copy(), self._approximate_from), daemon=True
        ).start()
        return making


def _fill(making: _Making, keys: Any, num_first: int) -> None:
    try:
        width = keys.shape[1]
        num_lists = max(1, num_first // ROWS_PER_LIST)
        lists = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(width), width, num_lists, faiss.METRIC_INNER_PRODUCT
        )
        lists.cp.max_points_per_centroid = _SAMPLES_PER_LIST
        lists.train(keys[:num_first])
        lists.add(keys)
        making.lists = lists
    finally:
        making.done.set()


def nearest_by_product(keys: Tensor, queries: Tensor, k: int) -> Tensor:
    """As `KeyIndex.nearest`, by one product on the device of the keys (m, d).

    Returns:
        (n, k) int64 on the host.
    """
    found = (queries.to(keys.device) @ keys.T).topk(min(k, len(keys)), dim=1).indices.cpu()
    return torch.nn.functional.pad(found, (0, k - found.shape[1]), value=-1)


def _add(index: Any, keys: Tensor, start: int) -> None:
    index.add(_host(keys[start:]))


def _host(vectors: Tensor) -> Any:
    return vectors.detach().float().cpu().contiguous().numpy()
