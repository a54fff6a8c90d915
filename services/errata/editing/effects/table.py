"""The plans of the rows that run, as tensors: a table for each type of effect.

Tensor operations find what a forward pass needs; the result is cached while the same rows run
together.
"""

from __future__ import annotations

from typing import Never, TypeVar, cast

import torch
from torch import Tensor

from errata.editing.effects.effect import Effect, EffectTable, TableShape
from errata.editing.effects.plan import BatchPlan, RowPlan

E = TypeVar("E", bound=Effect)


class PlanTable:
    """The plans of the rows that run; rows keep their place until they are moved.

    It holds which positions effects take. All else is in the effects' own tables, each created
    when the first row with its effect is put.
    """

    def __init__(self, num_rows: int, width: int, *, device: torch.device, dtype: torch.dtype):
        """All rows are free.

        Args:
            num_rows: rows of the table.
            width: d of the model.
            device: the model's.
            dtype: the model's.
        """
        self._shape = TableShape(num_rows, width, device, dtype)
        self._tables: dict[type[Effect], EffectTable[Never]] = {}
        self._used: list[tuple[EffectTable[Never], ...]] = [()] * num_rows  # by row
        self._num_inserted, self._after = torch.zeros(2, num_rows, dtype=torch.int64)
        self._views: dict[tuple[int, int], BatchPlan] = {}

    def put(self, row: int, plan: RowPlan) -> None:
        """Gives a free row a plan."""
        self._views.clear()
        for effect in plan.effects:
            self._put(row, effect)

    def _put(self, row: int, effect: E) -> None:
        table = self._table_of(effect)
        table.put(row, effect)
        self._used[row] = (*self._used[row], table)
        if effect.num_positions:
            self._num_inserted[row], self._after[row] = effect.num_positions, effect.after

    def _table_of(self, effect: E) -> EffectTable[E]:
        found = self._tables.get(type(effect))
        if found is None:
            found = self._tables[type(effect)] = effect.new_table(self._shape)
        return cast(EffectTable[E], found)  # tables are stored by their effect's type

    def free(self, row: int) -> None:
        """Takes the plan from a row."""
        self._views.clear()
        for table in self._used[row]:
            table.free(row)
        self._used[row] = ()
        self._num_inserted[row] = 0

    def move(self, source: int, target: int) -> None:
        """Moves a row's plan to a free row."""
        self._views.clear()
        for table in self._used[source]:
            table.move(source, target)
        self._used[source], self._used[target] = (), self._used[source]
        for column in (self._num_inserted, self._after):
            column[target] = column[source]
        self._num_inserted[source] = 0

    def token_index(self, first: int, positions: Tensor) -> Tensor:
        """Which token of each row's prompt a position holds; undefined where it holds none.

        Args:
            first: the batch's first row.
            positions: (B, T) int64 in host memory, counted with those that effects take.

        Returns:
            (B, T) int64.
        """
        count, after = self._inserted(first, len(positions))
        return torch.where(positions < after, positions, positions - count)

    def view(self, first: int, num_rows: int) -> BatchPlan:
        """The plan of `num_rows` rows from `first` on, after all positions that effects take."""
        found = self._views.get((first, num_rows))
        if found is None:
            views = [table.view(first, num_rows) for table in self._tables.values()]
            found = BatchPlan(tuple(view for view in views if view is not None))
            self._views[first, num_rows] = found
        return found

    def view_at(self, first: int, positions: Tensor) -> BatchPlan:
        """As `view`, for a pass over `positions`: (B, T), as for `token_index`."""
        shared = self.view(first, len(positions))
        count, after = self._inserted(first, len(positions))
        offsets = positions - after
        inserted = (offsets >= 0) & (offsets < count)
        if not bool(inserted.any()):
            return shared
        views = [t.view_inserted(first, inserted, offsets) for t in self._tables.values()]
        here = tuple(view for view in views if view is not None)
        return BatchPlan((*shared.effects, *here), inserted)

    def _inserted(self, first: int, num_rows: int) -> tuple[Tensor, Tensor]:
        """How many positions effects take in each row, and after how many tokens; (B, 1) each."""
        rows = slice(first, first + num_rows)
        return self._num_inserted[rows, None], self._after[rows, None]
