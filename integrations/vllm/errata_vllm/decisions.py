"""What is decided on requests before vLLM gets them: their plans, under one state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.editing.effects.plan import BASE, RowPlan
from errata.engine.sequence import Request
from errata.engine.serving_state import ServingState, initial_plan


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision on one request.

    Attributes:
        state: the request is computed under it.
        plan: the effects on it, and the edits that claim it.
    """

    state: ServingState
    plan: RowPlan


def decide(state: ServingState, requests: Sequence[Request]) -> list[Decided]:
    """Decides on a batch of requests; all plans are final.

    A lane that decides by a hidden state takes a pass of the replica's own model over the prompts.

    Args:
        state: the requests are admitted under it.
        requests: at least one.
    """
    plans: Sequence[RowPlan] = [BASE] * len(requests)
    if state.router is not None:
        decisions = state.router.before_prefill(requests, single_pass=False)
        plans = [initial_plan(decision) for decision in decisions]
    return [Decided(state, plan) for plan in plans]
