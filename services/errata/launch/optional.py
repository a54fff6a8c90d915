"""A process without which the system goes on: its end is reported, and it is started again."""

from __future__ import annotations

import time
from collections.abc import Callable

from errata.launch.processes import Process

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 60.0
_MOST_DOUBLINGS = 10


class OptionalProcess:
    """Keeps a process running that nothing else needs; call `look` now and then.

    An end is reported with the last lines of its output, once until the process is ready again. The
    wait before a new start doubles while the process does not stay up.
    """

    def __init__(
        self,
        process: Process,
        start: Callable[[], Process],
        is_ready: Callable[[], bool],
        report: Callable[[str], object],
        *,
        ready: bool,
        without: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes over a process that was started.

        Args:
            process: the first one.
            start: starts the next one; OSError if it cannot.
            is_ready: whether the running one serves.
            report: shows a text to the operator.
            ready: whether the first one serves already.
            without: what is missing until it serves, for the reports.
            clock: gives seconds.
        """
        self._process = process
        self._start = start
        self._is_ready = is_ready
        self._report = report
        self._ready = ready
        self._without = without
        self._clock = clock
        self._begun = clock()
        self._failures = 0
        self._again_at: float | None = None
        self._is_reported = False
        if not ready and process.running:
            report(f"{process.name} is not ready yet, and the system goes on. {without}")

    def look(self) -> None:
        """Looks once: reports an end, starts the process again when it is time to."""
        now = self._clock()
        if self._process.running:
            if not self._ready and self._is_ready():
                self._ready, self._is_reported = True, False
                self._report(f"{self._process.name} is up")
        elif self._again_at is None:
            self._ended(now, self._process.ended().message)
        elif now >= self._again_at:
            self._process.stop(0)  # what it started may be left
            self._begun, self._again_at = now, None
            try:
                self._process = self._start()
            except OSError as error:
                self._ended(now, f"{self._process.name} cannot be started: {error}")

    def _ended(self, now: float, problem: str) -> None:
        if now - self._begun > _LONGEST_SECONDS:
            self._failures = 0
        doublings = min(self._failures, _MOST_DOUBLINGS)
        self._again_at = now + min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0**doublings)
        self._failures += 1
        self._ready = False
        if not self._is_reported:
            self._is_reported = True
            self._report(
                f"{problem}\nThe system goes on, and starts {self._process.name} again and again. "
                f"{self._without}"
            )
