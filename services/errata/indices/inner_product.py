"""Searches keys by inner product: exactly, or by inverted lists past a size (FAISS).

Keys that lie on a GPU are searched there, all of them, by one product.

An index only proposes candidates; whoever asked scores them again, exactly (`recipe.route`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import faiss
import torch
from torch import Tensor

from errata.editing.lane.search import Lineage, Rows

APPROXIMATE_FROM = 100_000
_ROWS_PER_LIST = 100
_PROBED_SHARE = 0.02  # of the lists
_FEWEST_PROBED = 8
_SAMPLES_PER_LIST = 40


@dataclass(slots=True)
class _Known:
    """What the index has of one lineage.

    Attributes:
        exact: all rows; None once `lists` has them.
        lists: inverted lists; None while there are few rows, or while they are being made.
        size: rows that are in.
        num_cuts: of the lineage, seen so far.
        making: the lists, on their way.
    """

    exact: Any
    lists: Any = None
    size: int = 0
    num_cuts: int = 0
    making: _Making | None = None


@dataclass(slots=True)
class _Making:
    """Inverted lists that are made beside the searches, from the rows of one moment."""

    num_rows: int
    num_cuts: int
    done: threading.Event = field(default_factory=threading.Event)
    lists: Any = None


class KeyIndex:
    """Proposes the rows with the highest inner products; takes over new rows when it is asked.

    It keeps one FAISS index for each lineage that somebody still holds a snapshot of. From
    `approximate_from` rows on, inverted lists are made in a thread of their own and then searched
    in place of all rows. Their centroids come from the lineage's first rows alone, so that all
    replicas of one log have the same ones, whenever they were started.
    """

    def __init__(self, approximate_from: int = APPROXIMATE_FROM) -> None:
        """Empty.

        Args:
            approximate_from: number of rows.
        """
        self._approximate_from = approximate_from
        self._known: WeakKeyDictionary[Lineage, _Known] = WeakKeyDictionary()

    def nearest(self, rows: Rows, queries: Tensor, k: int) -> Tensor:
        """Numbers of k rows with the highest inner products, (n, k) int64; −1 for none.

        Rows that came since the last call are added, those that were cut are removed.
        """
        if rows.keys.device.type != "cpu":
            return nearest_by_product(rows.keys, queries, k)
        known, n = self._taken_over(rows), len(rows.keys)
        visible = faiss.IDSelectorRange(0, n)  # FAISS does not keep it alive
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
        """Returns once no lists are being made; the next search uses them."""
        for known in list(self._known.values()):
            if known.making is not None:
                known.making.done.wait()

    def _taken_over(self, rows: Rows) -> _Known:
        keys, lineage = rows.keys, rows.lineage
        known = self._known.get(lineage)
        if known is None:
            known = _Known(faiss.IndexFlatIP(keys.shape[1]), num_cuts=len(lineage.cuts))
            self._known[lineage] = known
        self._take_lists(known, rows)
        stays = min([known.size, *lineage.cuts[known.num_cuts :]])
        known.num_cuts = len(lineage.cuts)
        index = known.exact if known.lists is None else known.lists
        if stays < known.size:
            index.remove_ids(faiss.IDSelectorRange(stays, known.size))
            known.size = stays
        if known.size < len(keys):
            _add(index, keys, known.size)
            known.size = len(keys)
        if known.lists is None and known.making is None and known.size >= self._approximate_from:
            known.making = self._make_lists(keys, len(lineage.cuts))
        return known

    def _take_lists(self, known: _Known, rows: Rows) -> None:
        """Puts finished lists in the place of the exact index, if their rows are still there."""
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
        # A copy: the rows behind these may be written while the thread reads.
        threading.Thread(
            target=_fill, args=(making, _host(keys).copy(), self._approximate_from), daemon=True
        ).start()
        return making


def _fill(making: _Making, keys: Any, num_first: int) -> None:
    try:
        width = keys.shape[1]
        num_lists = max(1, num_first // _ROWS_PER_LIST)
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
    """As `KeyIndex.nearest`, by one product where the keys (m, d) lie; (n, k) int64 on the host."""
    found = (queries.to(keys.device) @ keys.T).topk(min(k, len(keys)), dim=1).indices.cpu()
    return torch.nn.functional.pad(found, (0, k - found.shape[1]), value=-1)


def _add(index: Any, keys: Tensor, start: int) -> None:
    index.add(_host(keys[start:]))


def _host(vectors: Tensor) -> Any:
    return vectors.detach().float().cpu().contiguous().numpy()
