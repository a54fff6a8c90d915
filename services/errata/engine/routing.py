"""Routing of admitted requests: in large batches, and under the state that answers report."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from errata.editing.effects.plan import BASE
from errata.engine.job import Job
from errata.engine.sequence import GenerationRequest, Request
from errata.engine.serving_state import Decision, ServingState

TOGETHER = 32
"""Maximum number of requests in one routing call."""


def route_jobs(
    state: ServingState, jobs: Sequence[Job], waiting: Sequence[Job], prefill_tokens: int
) -> list[Decision]:
    """Routes the jobs that are admitted now, together with some that are still waiting.

    Rows become free one or two at a time, but reading many prompts takes a retriever little more
    time than reading one. A decision on a waiting job is used if the job is admitted under the
    same state; otherwise it is made again (P6).

    Args:
        state: the jobs are admitted under it.
        jobs: at least one.
        waiting: the next jobs in the queue, in order.
        prefill_tokens: longest prompt that a single prefill pass reads.

    Returns:
        One decision for each of `jobs`.
    """
    undecided = [job for job in jobs if job.decision_under(state) is None]
    looks_ahead = state.router is not None and state.router.module is None
    if undecided and looks_ahead and not any(job.runs_alone for job in jobs):
        others = (j for j in waiting if not j.runs_alone and j.decision_under(state) is None)
        undecided += itertools.islice(others, max(0, TOGETHER - len(undecided)))
    if undecided:
        made = _decide(state, [job.request for job in undecided], prefill_tokens)
        for job, decision in zip(undecided, made, strict=True):
            job.decision = state, decision
    return [known for job in jobs if (known := job.decision_under(state)) is not None]


def _decide(
    state: ServingState, requests: Sequence[Request], prefill_tokens: int
) -> Sequence[Decision]:
    if state.router is None:
        return [BASE] * len(requests)
    single_pass = all(
        isinstance(request, GenerationRequest) and len(request.prompt_ids) <= prefill_tokens
        for request in requests
    )
    return state.router.before_prefill(requests, single_pass=single_pass)
