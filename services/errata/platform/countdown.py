"""Reports of a long computation, every few seconds, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_SECONDS = 5.0


class Countdown:
    """Turns progress into rare reports.

    It is called after each step with (done, total), `done` not decreasing; the time starts with the
    first call. It reports once `every_seconds` have passed, and at the end.
    """

    def __init__(
        self,
        report: Callable[[int, int, float], object],
        *,
        every_seconds: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares.

        Args:
            report: called with done, total and the estimated seconds that are left.
            every_seconds: between two reports.
            clock: gives seconds.
        """
        self._report = report
        self._every_seconds = every_seconds
        self._clock = clock
        self._begun: tuple[float, int] | None = None
        self._next_report = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Reports, if a report is due."""
        now = self._clock()
        if self._begun is None:
            self._begun = now, done
            self._next_report = now + self._every_seconds
        begun, first = self._begun
        if done >= total:
            self._report(done, total, 0.0)
        elif done > first and now >= self._next_report:
            self._report(done, total, (now - begun) / (done - first) * (total - done))
            self._next_report = now + self._every_seconds
