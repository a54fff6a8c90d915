"""What admitted requests get: decided before their prompts are read, or while they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from errata.editing.effects.plan import BASE
from errata.engine.job import Job
from errata.engine.sequence import GenerationRequest, Request, Routed, ServingState

TOGETHER = 32
"""Requests that are routed in one go."""


def route_jobs(
    serving: ServingState, jobs: Sequence[Job], waiting: Sequence[Job], prefill_tokens: int
) -> list[Routed]:
    """Routes the jobs that are admitted now, and with them some that will be soon.

    Rows become free one or two at a time, but a retriever reads many prompts in little more time
    than one. What was decided for those that wait counts if they are admitted under the same
    serving, else it is decided again (P6).

    Args:
        serving: under which the jobs are admitted.
        jobs: at least one.
        waiting: behind them, the next one first.
        prefill_tokens: longest prompt that one prefill reads whole.

    Returns:
        One for each of `jobs`.
    """
    asked = [job for job in jobs if job.routed_under(serving) is None]
    may_share = serving.route is not None and serving.late is None
    if asked and may_share and not any(job.alone for job in jobs):
        others = (j for j in waiting if not j.alone and j.routed_under(serving) is None)
        asked += itertools.islice(others, max(0, TOGETHER - len(asked)))
    if asked:
        found = route(serving, [job.request for job in asked], prefill_tokens)
        for job, made in zip(asked, found, strict=True):
            job.routed = serving, made
    return [routed for job in jobs if (routed := job.routed_under(serving)) is not None]


def route(serving: ServingState, requests: Sequence[Request], prefill_tokens: int) -> list[Routed]:
    """Routes an admission batch.

    A hidden state that decides is read in the prompt's own prefill. Not so where that pass is
    another one: a prompt that is read in parts has done with lower layers by then, and one behind
    another lane's prefix is not read as it stands. Those are routed by a pass of their own.

    Args:
        serving: under which they are admitted.
        requests: at least one.
        prefill_tokens: longest prompt that one prefill reads whole.
    """
    late = serving.late
    if serving.route is None:
        return [(BASE, None)] * len(requests)
    if late is None or not all(_is_read_whole(request, prefill_tokens) for request in requests):
        return [(plan, None) for plan in serving.route(requests)]
    found: list[Routed] = [(plan, late) for plan in late.early(requests)]
    prefixed = [number for number, (plan, _) in enumerate(found) if plan.num_positions]
    if prefixed:
        plans = serving.route([requests[number] for number in prefixed])
        for number, plan in zip(prefixed, plans, strict=True):
            found[number] = (plan, None)
    return found


def _is_read_whole(request: Request, prefill_tokens: int) -> bool:
    return isinstance(request, GenerationRequest) and len(request.prompt_ids) <= prefill_tokens
