"""The contract of an effect: how a claim changes the forward pass of its row.

An effect is one module with four parts:

1. `Effect`: what one row gets. A lane's view makes it, a `RowPlan` carries it.
2. `EffectTable`: the effects of all running rows, as columns of tensors.
3. `BatchEffect`: the part of the table that one forward pass needs.
4. `EffectHooks`: what changes the pass; it reads the current `BatchEffect` and knows no request.

`PlanTable` makes the table, and `PlanHooks` the hooks, when the first row needs them. They know
effects by this contract alone, so a new effect is a new module and changes no other one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from errata.editing.model.causal_lm import CausalLM

E_contra = TypeVar("E_contra", bound="Effect", contravariant=True)
B_contra = TypeVar("B_contra", bound="BatchEffect", contravariant=True)


@dataclass(frozen=True, slots=True)
class TableShape:
    """What a table's columns must match.

    Attributes:
        num_rows: rows of the table.
        width: d of the model.
        device: the model's.
        dtype: the model's.
    """

    num_rows: int
    width: int
    device: torch.device
    dtype: torch.dtype


class Effect(Protocol):
    """The effect on one row; immutable, and compared by identity."""

    @property
    def num_positions(self) -> int:
        """Positions that the effect adds to the prompt's tokens in the row's sequence."""
        return 0

    @property
    def after(self) -> int:
        """How many of the prompt's tokens come before those positions."""
        return 0

    def behind(self, num_tokens: int) -> Self:
        """The effect for a prompt whose first `num_tokens` come before its positions."""
        return self

    def new_table(self, shape: TableShape) -> EffectTable[Self]:
        """An empty table for effects of this type."""


class EffectTable(Protocol[E_contra]):
    """The effects of one type of the rows that run; rows keep their place until they are moved.

    No method loops over rows. Ids and lengths are in host memory; what enters products is on the
    model's device, in its dtype.
    """

    def put(self, row: int, effect: E_contra) -> None:
        """Gives a free row an effect."""

    def free(self, row: int) -> None:
        """Takes the effect from a row that has one."""

    def move(self, source: int, target: int) -> None:
        """Moves the effect of a row that has one to a free row."""

    def view(self, first: int, num_rows: int) -> BatchEffect | None:
        """The effects on `num_rows` rows from `first` on, at every position; None without any.

        `PlanTable` caches it while the same rows run together.
        """

    def view_inserted(self, first: int, inserted: Tensor, offsets: Tensor) -> BatchEffect | None:
        """The effects at the positions that effects take; None without any.

        Args:
            first: the batch's first row.
            inserted: (B, T) bool in host memory, positions that an effect takes; not every row
                that has some has an effect of this type.
            offsets: (B, T) int64 in host memory, 0 … num_positions − 1 at those positions and
                anything elsewhere.
        """
        return None


class BatchEffect(Protocol):
    """What the hooks of one effect read during one forward pass."""

    def new_hooks(self, model: CausalLM) -> EffectHooks[Self]:
        """The hooks of this type of batch, for one model; none is registered yet."""


class EffectHooks(Protocol[B_contra]):
    """The hooks of one effect in one model.

    Rows without the effect must not be touched at all, so that their bits are those of the
    unhooked pass of the same shape (P8).
    """

    def register(self, batch: B_contra) -> None:
        """Registers the hooks that `batch` needs and the model does not have yet; they stay."""

    def follow(self, batch: B_contra | None) -> None:
        """Applies `batch` to the passes that follow; with None, the hooks change nothing."""
