"""What is decided on requests before vLLM gets them: their plans, and whose edits shape them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.model.causal_lm import CausalLM
from errata.engine.runner import Runner
from errata.engine.sequence import Request
from errata.engine.serving_state import ServingState, initial_plan


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision on one request.

    Attributes:
        state: the request is computed under it.
        plan: the effects on it.
        edits: names of the edits that shape its answer, newest first.
    """

    state: ServingState
    plan: RowPlan
    edits: tuple[str, ...]


def decide(model: CausalLM, state: ServingState, requests: Sequence[Request]) -> list[Decided]:
    """Decides on a batch of requests; all plans are final.

    A lane that decides by a hidden state, and the attribution of edited weights, take passes of the
    replica's own model over the prompts.

    Args:
        model: the replica's.
        state: the requests are admitted under it.
        requests: at least one.
    """
    plans: Sequence[RowPlan] = [BASE] * len(requests)
    if state.router is not None:
        decisions = state.router.before_prefill(requests, single_pass=False)
        plans = [initial_plan(decision) for decision in decisions]
    named: Sequence[tuple[str, ...]] = [()] * len(requests)
    if state.attribution is not None:
        prompts = [request.prompt_ids for request in requests]
        ends = [prompt[-1:] for prompt in prompts]  # the runner rates at least one token
        _, _, named = Runner(model, 1, 1).score(prompts, ends, plans, state.attribution)
    return [
        Decided(state, plan, tuple(dict.fromkeys((*plan.edits, *names))))
        for plan, names in zip(plans, named, strict=True)
    ]
