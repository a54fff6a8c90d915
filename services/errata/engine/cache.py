"""Keys and values of the running rows: one block per layer, and a length for each row.

Rows 0 … B−1 run and are contiguous, so that a step reads a view and copies nothing; the place of
a row that leaves is filled by another row (`move`). Position p of a row is entry p of its block.
Entries past a row's length are never attended to before they are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_FIRST_CAPACITY = 128
KEPT_CAPACITY = 1_024
"""Entries per row that stay allocated when no row runs: allocating them again would cost more."""


def grown(capacity: int, length: int) -> int:
    """The capacity, doubled until rows of `length` entries fit; at least the first capacity."""
    capacity = max(capacity, _FIRST_CAPACITY)
    while capacity < length:
        capacity *= 2
    return capacity


@dataclass(slots=True)
class Window:
    """The rows and positions that the next forward pass writes.

    Attributes:
        first: the first row.
        num_rows: number of consecutive rows.
        length: entries that the pass can attend to, the new ones included.
        start: the position at which all rows write; None if it differs between rows.
        positions: (B, T) int64 on the device, where the rows write; None if `start` is set.
    """

    first: int = 0
    num_rows: int = 0
    length: int = 0
    start: int | None = 0
    positions: Tensor | None = None


class _Layer(CacheLayerMixin):
    """One layer's block, (rows, heads, capacity, head width)."""

    keys: Tensor
    values: Tensor

    def __init__(self, window: Window, num_rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # transformers is not typed
        self._window = window
        self._num_rows = num_rows
        self._capacity = 0

    def reserve(self, capacity: int) -> None:
        """Makes room for `capacity` entries per row, at the latest in the first pass."""
        if self.is_initialized and capacity != self._capacity:
            for name in ("keys", "values"):
                old: Tensor = getattr(self, name)
                new = old.new_zeros(*old.shape[:2], capacity, old.shape[3])
                kept = min(capacity, old.shape[2])
                new[:, :, :kept] = old[:, :, :kept]
                setattr(self, name, new)
        self._capacity = capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocates the block once the number and the width of the heads are known."""
        for name, states in (("keys", key_states), ("values", value_states)):
            _, heads, _, width = states.shape
            setattr(self, name, states.new_zeros(self._num_rows, heads, self._capacity, width))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes (B, heads, T, width) into the window; returns what the pass attends to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        w = self._window
        rows = slice(w.first, w.first + w.num_rows)
        for block, states in ((self.keys, key_states), (self.values, value_states)):
            if w.positions is None:
                assert w.start is not None
                block[rows, :, w.start : w.start + states.shape[2]] = states
            else:
                index = torch.arange(w.first, w.first + w.num_rows, device=block.device)
                block[index[:, None], :, w.positions] = states.transpose(1, 2)
        return self.keys[rows, :, : w.length], self.values[rows, :, : w.length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copies a row's first entries to another row."""
        if self.is_initialized:
            self.keys[target, :, :length] = self.keys[source, :, :length]
            self.values[target, :, :length] = self.values[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the entries that the pass attends to."""
        return self._window.length, 0

    def get_seq_length(self) -> int:
        """Entries before the new ones, if all rows have the same number."""
        return self._window.start or 0

    def get_max_length(self) -> int:
        """Entries that fit now."""
        return self._capacity


class SlotCache(Cache):
    """The cache of all layers; set `window` before each pass."""

    def __init__(self, num_layers: int, num_rows: int, max_length: int) -> None:
        """Nothing is allocated before the first pass.

        Args:
            num_layers: of the model.
            num_rows: rows that can run at once.
            max_length: longest sequence.
        """
        self.window = Window()
        self._max_length = max_length
        self._capacity = 0
        self._blocks = [_Layer(self.window, num_rows) for _ in range(num_layers)]
        super().__init__(layers=list(self._blocks))

    def reserve(self, length: int) -> None:
        """Makes room for rows of `length` entries; capacity doubles, so that copies are rare."""
        if length > self._capacity:
            self._resize(min(grown(self._capacity, length), self._max_length))

    def shrink(self) -> None:
        """Releases memory that a long row needed; call it when no row runs."""
        if self._capacity > KEPT_CAPACITY:
            self._resize(KEPT_CAPACITY)

    def move(self, source: int, target: int, length: int) -> None:
        """Copies a row's first `length` entries to another row."""
        for layer in self._blocks:
            layer.move(source, target, length)

    def _resize(self, capacity: int) -> None:
        self._capacity = capacity
        for layer in self._blocks:
            layer.reserve(capacity)
