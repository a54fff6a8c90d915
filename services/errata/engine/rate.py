"""The rate at which generations finish."""

from __future__ import annotations

import time
from collections import deque

_MARK_SECONDS = 0.05  # least time between two marks
_WINDOW_SECONDS = 5.0


class Rate:
    """Estimates how long a queue takes, from the rate of the last seconds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def note(self, num_finished: int) -> None:
        """Records how many generations have finished so far."""
        now = time.monotonic()
        if now - self._marks[-1][0] > _MARK_SECONDS:
            self._marks.append((now, num_finished))
        while len(self._marks) > 2 and now - self._marks[1][0] > _WINDOW_SECONDS:
            self._marks.popleft()

    def seconds_for(self, num_requests: int) -> int:
        """Estimated whole seconds until `num_requests` have finished, from 1 to 30."""
        (then, before), (now, after) = self._marks[0], self._marks[-1]
        per_second = (after - before) / max(now - then, _MARK_SECONDS)
        return max(1, min(30, round(num_requests / max(per_second, 1e-6))))
