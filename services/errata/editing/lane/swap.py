"""The two steps of every change of a lane: prepare it apart from the model, then swap it in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from errata.editing.model.weights import Swap, Undo

T = TypeVar("T")


class Cell(Generic[T]):
    """An immutable value that changes replace.

    Attributes:
        value: the current one.
    """

    def __init__(self, value: T) -> None:
        """Starts with `value`."""
        self.value = value

    def replaced_by(self, after: T) -> Swap:
        """Puts `after` in the place of the current value."""

        def apply() -> Undo:
            before, self.value = self.value, after

            def undo() -> None:
                self.value = before

            return undo

        return apply


@dataclass(frozen=True, slots=True)
class Change:
    """A prepared change of a lane.

    Attributes:
        apply: applies the change between two batches; returns the function that undoes it.
        alters_weights: whether it changes matrices that every row of a batch reads.
    """

    apply: Swap
    alters_weights: bool = False

    def followed_by(self, swap: Swap) -> Change:
        """Both changes as one; the second is undone first."""

        def apply() -> Undo:
            undos = [self.apply(), swap()]

            def undo() -> None:
                for undo_one in reversed(undos):
                    undo_one()

            return undo

        return Change(apply, self.alters_weights)
