"""The policy for requests whose routing or forward pass failed."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from errata.engine.batch import RunningBatch
from errata.engine.job import Job, ResultBuffer
from errata.engine.row import Row
from errata.engine.scheduler import Scheduler
from errata.errors import UnavailableError, traceback_of

_log = structlog.get_logger(__name__)


class FailurePolicy:
    """Ends failed requests or retries them individually; a failed pass never ends the engine."""

    def __init__(self, batch: RunningBatch, scheduler: Scheduler, results: ResultBuffer) -> None:
        self._batch = batch
        self._scheduler = scheduler
        self._results = results

    def handle(self, jobs: Sequence[Job], error: Exception) -> None:
        """Handles the failure of a prefill or of the routing before it.

        Args:
            jobs: requests that were admitted for it.
            error: if a service was unavailable, a retry of each request would fail as well.
        """
        if isinstance(error, UnavailableError):
            self._fail(jobs, error)
        else:
            self.retry_individually(jobs, error)

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        """Ends all requests of the prefill with the error."""
        for job in self._withdraw(jobs):
            self._results.put(job, error)

    def retry_individually(self, jobs: Sequence[Job], error: Exception) -> None:
        """Retries each request of the failed pass once in a pass of its own, then fails it."""
        _log.error("a pass failed", num_requests=len(jobs), exception=traceback_of(error))
        retried = []
        for job in self._withdraw(jobs):
            if job.runs_alone or job.has_output:
                self._results.put(job, error)
            else:
                retried.append(job)
            job.runs_alone = True
        self._scheduler.retry(retried)

    def _withdraw(self, jobs: Sequence[Job]) -> list[Job]:
        """Drops the rows of the failed pass; returns its requests, each of them once."""
        rows: list[Row] = [row for row in self._batch.rows if row.num_left or row.job in jobs]
        self._batch.drop(rows)
        return list(dict.fromkeys([*jobs, *(row.job for row in rows)]))
