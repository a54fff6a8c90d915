"""The scheduler: refuses, expires and admits waiting requests."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

from errata.engine.batch import RunningBatch
from errata.engine.job import Job, ResultBuffer
from errata.engine.limits import EngineLimits
from errata.engine.rate import Rate
from errata.engine.refusals import queue_full, too_late
from errata.engine.sequence import GenerationRequest

EXPIRY_SECONDS = 0.05
"""Interval at which requests past their deadline are removed."""


class Scheduler:
    """The waiting requests, oldest first."""

    def __init__(
        self,
        batch: RunningBatch,
        results: ResultBuffer,
        lock: threading.Condition,
        limits: EngineLimits,
    ) -> None:
        """No request is waiting.

        Args:
            batch: requests are admitted to it.
            results: takes the errors of expired requests.
            lock: guards the queue; notified when a request arrives.
            limits: of the queue and of one prefill.
        """
        self._batch = batch
        self._results = results
        self._lock = lock
        self._limits = limits
        self._waiting: deque[Job] = deque()
        self._rate = Rate()
        self._has_cancelled = False  # since the last expiry
        self._last_expiry = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._waiting)

    def add(self, job: Job) -> None:
        """Appends a request.

        Raises:
            QueueFullError: too many requests are waiting.
        """
        with self._lock:
            if len(self._waiting) >= self._limits.max_queue:
                raise queue_full(self._limits.max_queue, self._rate.seconds_for(len(self._waiting)))
            self._waiting.append(job)
            self._lock.notify()

    def retry(self, jobs: Sequence[Job]) -> None:
        """Puts requests back to the front of the queue, in order."""
        with self._lock:
            self._waiting.extendleft(reversed(jobs))

    def cancel(self, job: Job) -> None:
        """Marks a request whose caller has left; `expire` removes it."""
        job.cancelled = self._has_cancelled = True

    def expire(self) -> None:
        """Removes cancelled requests and those past their deadline, waiting or running."""
        now = time.monotonic()
        if not self._has_cancelled and now - self._last_expiry < EXPIRY_SECONDS:
            return
        self._has_cancelled, self._last_expiry = False, now
        for row in self._batch.expired():
            if not row.job.cancelled:
                self._results.put(row.job, too_late())
            self._batch.drop([row])
        with self._lock:
            for job in self._waiting:
                if not job.cancelled and job.request.deadline < now:
                    self._results.put(job, too_late())
                    job.cancelled = True
            self._waiting = deque(job for job in self._waiting if not job.cancelled)

    def schedule(self) -> list[Job]:
        """Takes the oldest requests that fit in one prefill; only generations need a free row.

        Returns:
            Requests of one kind: generations keep their rows after the prefill, scored requests
            end with it.
        """
        jobs: list[Job] = []
        widest = 0
        with self._lock:
            while self._waiting and not self._batch.is_prefilling:
                job = self._waiting[0]
                if jobs and not _can_share(jobs[0], job):
                    break
                if isinstance(job.request, GenerationRequest) and len(jobs) >= self._batch.num_free:
                    break
                widest = max(widest, job.request.num_prefill_tokens)
                if jobs and widest * (len(jobs) + 1) > self._limits.prefill_tokens:
                    break
                jobs.append(self._waiting.popleft())
        return [job for job in jobs if not job.cancelled]

    def first(self, count: int) -> list[Job]:
        """The next requests to be scheduled."""
        with self._lock:
            return list(itertools.islice(self._waiting, count))

    def note_finished(self, num_finished: int) -> None:
        """Records how many generations have finished so far, to estimate waiting times."""
        self._rate.note(num_finished)


def _can_share(one: Job, other: Job) -> bool:
    """Whether two requests can share a prefill."""
    is_same_kind = type(one.request) is type(other.request)
    return is_same_kind and not (one.runs_alone or other.runs_alone)
