"""What admitted requests get: decided before their prompts are read, or while they are."""

from __future__ import annotations

from collections.abc import Sequence

from errata.editing.plan import BASE, RowPlan
from errata.engine.sequence import Edition, GenerationRequest, LateRoute, Request

Routed = tuple[RowPlan, LateRoute | None]
"""A plan, and what still decides on it in the middle of the prefill."""


def route(edition: Edition, requests: Sequence[Request], prefill_tokens: int) -> list[Routed]:
    """Routes an admission batch.

    A hidden state that decides is read in the prompt's own prefill. Not so where that pass is
    another one: a prompt that is read in parts has done with lower layers by then, and one behind
    another lane's prefix is not read as it stands. Those are routed by a pass of their own.

    Args:
        edition: under which they are admitted.
        requests: at least one.
        prefill_tokens: longest prompt that one prefill reads whole.
    """
    late = edition.late
    if edition.route is None:
        return [(BASE, None)] * len(requests)
    if late is None or not all(_is_read_whole(request, prefill_tokens) for request in requests):
        return [(plan, None) for plan in edition.route(requests)]
    found: list[Routed] = [(plan, late) for plan in late.early(requests)]
    prefixed = [number for number, (plan, _) in enumerate(found) if plan.prefix is not None]
    if prefixed:
        plans = edition.route([requests[number] for number in prefixed])
        for number, plan in zip(prefixed, plans, strict=True):
            found[number] = (plan, None)
    return found


def _is_read_whole(request: Request, prefill_tokens: int) -> bool:
    return isinstance(request, GenerationRequest) and len(request.prompt_ids) <= prefill_tokens
