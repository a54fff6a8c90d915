"""The two steps of every change of a lane: prepare it beside the model, then swap it in."""

from __future__ import annotations

from dataclasses import dataclass

from errata.editing.model.weights import Swap, Undo


@dataclass(frozen=True, slots=True)
class Change:
    """A prepared change of a lane.

    Attributes:
        apply: puts it in place, between two batches; returns what takes it back.
        alters_weights: whether it changes matrices that every row of a batch reads.
    """

    apply: Swap
    alters_weights: bool = False

    def followed_by(self, swap: Swap) -> Change:
        """Both changes as one; the second is taken back first."""

        def apply() -> Undo:
            undos = [self.apply(), swap()]

            def undo() -> None:
                for take_back in reversed(undos):
                    take_back()

            return undo

        return Change(apply, self.alters_weights)
