"""Scoring of given continuations: one pass for a whole batch, which takes no row."""

from __future__ import annotations

from collections.abc import Sequence

from errata.engine.job import Job, ResultBuffer
from errata.engine.runner import Runner
from errata.engine.sequence import ScoredContinuation, ScoringRequest
from errata.engine.serving_state import Decision, ServingState, initial_plan


def score_jobs(
    runner: Runner,
    state: ServingState,
    decided: Sequence[tuple[Job, Decision]],
    results: ResultBuffer,
) -> None:
    """Scores the continuations of all jobs and sends the results.

    Args:
        runner: its model holds the weights of `state`.
        state: the jobs were admitted under it.
        decided: jobs with scoring requests, and the decisions on them.
        results: takes the scored continuations.
    """
    requests = [job.request for job, _ in decided]
    plans = [initial_plan(decision) for _, decision in decided]
    log_p, own, edits = runner.score(
        [request.prompt_ids for request in requests],
        [r.continuation_ids for r in requests if isinstance(r, ScoringRequest)],
        plans,
        state.attribution,
    )
    for (job, _), plan, row_log_p, row_own, names in zip(
        decided, plans, log_p, own, edits, strict=True
    ):
        shaped = tuple(dict.fromkeys((*plan.edits, *names)))
        results.put(
            job,
            ScoredContinuation(tuple(row_log_p), tuple(row_own), state.version, shaped, plan.cut),
        )
