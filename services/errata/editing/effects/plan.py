"""Plans: the effects on each row of a batch, and the part that one pass needs.

A `RowPlan` is made once, when a request is routed, and stays with its row to the end (P6). Running
rows' effects are in a `PlanTable`; a `BatchPlan` is what the table gives to one forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from errata.editing.effects.effect import BatchEffect, Effect

E = TypeVar("E", bound=Effect)
B = TypeVar("B", bound=BatchEffect)


@dataclass(frozen=True, eq=False, slots=True)
class RowPlan:
    """The effects on one request; by default none, so that the base model answers.

    Attributes:
        effects: at most one of each type; at most one of them takes positions.
        edits: names of the edits that claimed the request, newest first.
        cut: claims were decided on the end of the prompt alone, because the prompt was too long.
    """

    effects: tuple[Effect, ...] = ()
    edits: tuple[str, ...] = ()
    cut: bool = False

    def __post_init__(self) -> None:
        if len({type(effect) for effect in self.effects}) < len(self.effects):
            raise ValueError("a plan has two effects of one type; merge them into one effect.")
        if sum(effect.num_positions > 0 for effect in self.effects) > 1:
            raise ValueError("two effects of a plan take positions; only one can.")

    @property
    def num_positions(self) -> int:
        """Positions that the plan adds to the prompt's tokens."""
        return sum(effect.num_positions for effect in self.effects)

    def behind(self, num_tokens: int) -> RowPlan:
        """The plan for a prompt whose first `num_tokens` come before any position it adds."""
        if not num_tokens or not self.num_positions:
            return self
        return replace(self, effects=tuple(effect.behind(num_tokens) for effect in self.effects))

    def effect(self, kind: type[E]) -> E | None:
        """The plan's effect of one type, if it has one."""
        return next((effect for effect in self.effects if isinstance(effect, kind)), None)


BASE = RowPlan()
"""The plan of a request that no edit claims."""


@dataclass(frozen=True, eq=False, slots=True)
class BatchPlan:
    """The effects that hooks apply during one forward pass.

    Attributes:
        effects: at most one of each type.
        inserted: (B, T) bool in host memory, positions that effects take and no token holds; None
            if this pass has none.
    """

    effects: tuple[BatchEffect, ...] = ()
    inserted: Tensor | None = None

    def effect(self, kind: type[B]) -> B | None:
        """The pass's effect of one type, if it has one."""
        return next((effect for effect in self.effects if isinstance(effect, kind)), None)
