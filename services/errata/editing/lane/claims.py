"""Results of routing: the edit that claims a prompt, and the effect on each row of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.namespaces import DEFAULT_ONLY, Reading, Readings


@dataclass(frozen=True, slots=True)
class Claim:
    """A lane's decision on one prompt.

    Attributes:
        edit: the best edit, whether it claims the prompt or not; empty without edits.
        score: how well it matches; −∞ without edits.
        threshold: the score must exceed it.
        cut: the prompt is longer than the lane reads; its start was left out.
        vector: the vector that a `VectorView` decided by; plans can depend on it.
    """

    edit: str
    score: float
    threshold: float
    cut: bool = False
    vector: Tensor | None = field(default=None, compare=False)

    @property
    def holds(self) -> bool:
        """Whether the edit claims the prompt."""
        return self.score > self.threshold


NO_CLAIM = Claim("", -math.inf, math.inf)
"""The decision of a lane that has no edits."""


class RoutingView(Protocol):
    """Routes by the contents that a lane had when the view was created; never changes."""

    @property
    def vector_view(self) -> VectorView | None:
        """Decides by vectors that only the LLM can compute; None if the view decides by text."""

    def claims(self, prompts: Sequence[str], readings: Readings = None) -> list[Claim]:
        """One claim per prompt; called once for a whole batch, before the LLM runs.

        Args:
            prompts: of the batch.
            readings: the namespaces that each prompt reads; edits of others neither claim it nor
                are named.
        """

    def plans(self, claims: Sequence[Claim]) -> list[RowPlan]:
        """The plan of each row: the effect of the claiming edit, or no effect."""


class VectorView(Protocol):
    """Decides by one vector per prompt; a process without the LLM must receive the vectors."""

    @property
    def module(self) -> nn.Module | None:
        """The LLM's module whose input at a prompt's last token gives the vector.

        The prompt's own forward pass then yields it. None if the vector comes from elsewhere.
        """

    def vectors(self, prompts: Sequence[str]) -> Tensor:
        """The prompts' vectors, (n, width) fp32, by separate forward passes."""

    def vectors_of(self, states: Tensor) -> Tensor:
        """Vectors, (n, width) fp32, from `module`'s inputs at the last prompt tokens, (n, …)."""

    def claims_of(self, vectors: Tensor, readings: Readings = None) -> list[Claim]:
        """One claim per vector; `readings` as in `RoutingView.claims`."""


def route(
    view: RoutingView | None, prompts: Sequence[str], reading: Reading = DEFAULT_ONLY
) -> list[RowPlan]:
    """Decides on a batch of prompts in this process; a lane that does not route claims none.

    Args:
        view: of the lane.
        prompts: of the batch.
        reading: the namespaces that all of them read.
    """
    if view is None:
        return [BASE] * len(prompts)
    return view.plans(view.claims(prompts, [reading] * len(prompts)))
