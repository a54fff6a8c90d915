"""What routing decides: which edit claims a prompt, and what each row of a batch gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from errata.editing.effects.plan import BASE, RowPlan


@dataclass(frozen=True, slots=True)
class Claim:
    """What a lane decided on one prompt.

    Attributes:
        edit: the best edit, whether it claims the prompt or not; empty without edits.
        score: how well it matches; −∞ without edits.
        threshold: the score must exceed it.
        cut: the prompt is longer than the lane reads; its start was left out.
        vector: what a `VectorView` decided by; plans may depend on it.
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
    """Routes by what a lane held when the view was made; later changes do not affect it."""

    @property
    def vector_view(self) -> VectorView | None:
        """How it decides by vectors that only the LLM can compute; None if it decides by text."""

    def claims(self, prompts: Sequence[str]) -> list[Claim]:
        """One claim per prompt; called once for a whole batch, before the LLM runs."""

    def plans(self, claims: Sequence[Claim]) -> list[RowPlan]:
        """What each row gets: the effect of the claiming edit, or nothing."""


class VectorView(Protocol):
    """Decides by one vector per prompt; a process without the LLM has to be sent the vectors."""

    @property
    def module(self) -> nn.Module | None:
        """The LLM's module whose input at a prompt's last token gives the vector.

        The prompt's own forward pass then yields it. None if the vector comes from elsewhere.
        """

    def vectors(self, prompts: Sequence[str]) -> Tensor:
        """(n, width) fp32, by forward passes of their own."""

    def vectors_of(self, states: Tensor) -> Tensor:
        """(n, width) fp32, from the inputs of `module` at the prompts' last tokens, (n, …)."""

    def claims_of(self, vectors: Tensor) -> list[Claim]:
        """One claim per vector."""


def route(view: RoutingView | None, prompts: Sequence[str]) -> list[RowPlan]:
    """Decides on a batch of prompts in this process; a lane that does not route claims none."""
    if view is None:
        return [BASE] * len(prompts)
    return view.plans(view.claims(prompts))
