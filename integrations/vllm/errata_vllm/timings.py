"""Latencies of one generation in vLLM, for the engine's statistics."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from errata.engine.statistics import Statistics


class Timings:
    """When a generation's tokens arrived.

    Tokens that arrive together count as if they had been made at equal intervals. The times of an
    answer that arrives as a whole are those that vLLM's engine noted.
    """

    def __init__(self, arrived: float, statistics: Statistics) -> None:
        """No token has arrived.

        Args:
            arrived: `time.monotonic()` of the request's arrival.
            statistics: takes the latencies.
        """
        self._arrived = arrived
        self._statistics = statistics
        self._last = math.nan

    def note(self, num_tokens: int, metrics: Any) -> None:
        """Records tokens that have just arrived.

        Args:
            num_tokens: how many.
            metrics: vLLM's statistics of the request, or None.
        """
        if not num_tokens:
            return
        now, first = time.monotonic(), self._last
        if math.isnan(first) and metrics is not None and num_tokens > 1:
            made = metrics.last_token_ts - metrics.first_token_ts
            first = now - made
            self._add(1, math.nan, first)
            num_tokens -= 1
        if math.isnan(first):
            self._add(1, math.nan, now)
            first, num_tokens = now, num_tokens - 1
        if num_tokens:
            self._add(num_tokens, now - (now - first) / num_tokens, now)
        self._last = now

    def end(self, reason: str, num_prompt: int, num_generated: int) -> None:
        """Records the end of the generation."""
        seconds = time.monotonic() - self._arrived
        self._statistics.note_end(reason, num_prompt, num_generated, seconds)

    def _add(self, count: int, previous: float, now: float) -> None:
        arrived, last = np.full(count, self._arrived), np.full(count, previous)
        self._statistics.note_tokens(arrived, last, now)
