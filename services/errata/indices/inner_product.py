"""Search of keys by inner product: of all keys, or of those that a first pass proposes.

Keys on a GPU are searched there, all of them, by one matrix product.

The index only proposes candidates; the caller scores them again, exactly.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import structlog
import torch
from torch import Tensor

from errata.editing.lane.search import Lineage, SearchedRows
from errata.indices.exact import nearest_by_product, nearest_of
from errata.indices.first_pass import FirstPass

APPROXIMATE_FROM = 100_000

_log = structlog.get_logger(__name__)

MakeFirstPass = Callable[[Tensor], FirstPass]
"""Makes a first pass from a lineage's first rows, (m, d) fp32, and adds none of them."""


@dataclass(slots=True)
class _Known:
    """The first pass of one lineage.

    Attributes:
        first_pass: None while there are few rows, or while it is being made.
        size: number of rows that it holds.
        num_cuts: number of the lineage's cuts that it followed.
        making: a first pass that is being made; None if there is none.
        has_failed: it could not be made, for example for want of memory; all rows are searched.
    """

    first_pass: FirstPass | None = None
    size: int = 0
    num_cuts: int = 0
    making: _Making | None = None
    has_failed: bool = False


@dataclass(slots=True)
class _Making:
    """A first pass that a thread makes, while searches continue."""

    num_rows: int
    num_cuts: int
    done: threading.Event = field(default_factory=threading.Event)
    first_pass: FirstPass | None = None


class KeyIndex:
    """Proposes the rows with the highest inner products; each search adds new rows first.

    Without a first pass, it multiplies queries with all keys, and keeps nothing. From
    `approximate_from` rows on, a separate thread makes a first pass, one for each lineage that is
    still referenced. Its many proposals are scored in fp32 from the keys themselves. It is made
    from the lineage's first `approximate_from` rows, whenever the replica started.
    """

    def __init__(
        self, make: MakeFirstPass | None = None, approximate_from: int = APPROXIMATE_FROM
    ) -> None:
        """Starts empty.

        Args:
            make: makes first passes; None searches all rows, always.
            approximate_from: number of rows from which a first pass is used.
        """
        self._make = make
        self._approximate_from = approximate_from
        self._known: WeakKeyDictionary[Lineage, _Known] = WeakKeyDictionary()

    def nearest(self, rows: SearchedRows, queries: Tensor, k: int) -> Tensor:
        """Numbers of the k rows with the highest inner products, (n, k) int64; −1 for none.

        It first adds the rows that are new since the last call, and removes those that were cut.
        """
        keys = rows.keys
        if self._make is None or keys.device.type != "cpu":
            return nearest_by_product(keys, queries, k)
        known = self._updated(rows, self._make)
        if known.first_pass is None or len(keys) < self._approximate_from:
            return nearest_by_product(keys, queries, k)
        older = len(keys) if known.size > len(keys) else None
        count = max(k, known.first_pass.num_proposed)
        found = known.first_pass.propose(queries, count, older)
        if found is None:
            return nearest_by_product(keys, queries, k)
        return nearest_of(keys, queries, torch.from_numpy(found), k)

    @property
    def num_bytes(self) -> int:
        """Memory of all first passes."""
        passes = [known.first_pass for known in self._known.values()]
        return sum(one.num_bytes for one in passes if one is not None)

    def wait_until_made(self) -> None:
        """Returns once no first pass is being made; the next search uses the new ones."""
        for known in list(self._known.values()):
            if known.making is not None:
                known.making.done.wait()

    def _updated(self, rows: SearchedRows, make: MakeFirstPass) -> _Known:
        keys, cuts = rows.keys, rows.lineage.cuts
        known = self._known.setdefault(rows.lineage, _Known())
        self._adopt(known, cuts)
        if known.first_pass is not None:
            kept = min([known.size, *cuts[known.num_cuts :]])
            known.num_cuts = len(cuts)
            if kept < self._approximate_from or (
                kept < known.size and not known.first_pass.cut(kept)
            ):
                known.first_pass = None
            else:
                known.first_pass.add(keys[kept:])
                known.size = max(kept, len(keys))
        if (
            known.first_pass is None
            and known.making is None
            and not known.has_failed
            and len(keys) >= self._approximate_from
        ):
            known.making = self._start_making(keys, len(cuts), make)
        return known

    def _adopt(self, known: _Known, cuts: list[int]) -> None:
        """Uses a finished first pass, if none of its rows was cut."""
        making = known.making
        if making is None or not making.done.is_set():
            return
        known.making = None
        if making.first_pass is None:
            known.has_failed = True
        elif min([making.num_rows, *cuts[making.num_cuts :]]) == making.num_rows:
            known.first_pass = making.first_pass
            known.size, known.num_cuts = making.num_rows, making.num_cuts

    def _start_making(self, keys: Tensor, num_cuts: int, make: MakeFirstPass) -> _Making:
        making = _Making(len(keys), num_cuts)
        # The thread reads the rows where they are: rows change only after a cut, and what was made
        # of rows that were cut is never used.
        arguments = (making, keys, keys[: self._approximate_from], make)
        threading.Thread(target=_fill, args=arguments, daemon=True).start()
        return making


def _fill(making: _Making, keys: Tensor, first: Tensor, make: MakeFirstPass) -> None:
    try:
        first_pass = make(first)
        first_pass.add(keys)
        making.first_pass = first_pass
    except Exception as error:  # noqa: BLE001 a GPU's library has errors of its own
        _log.error("all keys are searched: no first pass can be made", reason=str(error))
    finally:
        making.done.set()
