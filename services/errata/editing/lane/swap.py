"""The two steps of every change of a lane: prepare it apart from the model, then swap it in."""

from __future__ import annotations

from dataclasses import dataclass

from errata.editing.model.weights import Swap, Undo


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
