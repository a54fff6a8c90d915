"""Counts and latencies of the engine since its start, for export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class Distribution:
    """A histogram that takes arrays: all rows of a batch in one call.

    Attributes:
        bounds: upper bounds of the buckets; the last bucket has none.
        counts: of each bucket.
        total: sum of all values.
    """

    def __init__(self, bounds: Sequence[float] = _SECONDS) -> None:
        self.bounds = np.asarray(bounds)
        self.counts = np.zeros(len(bounds) + 1, np.int64)
        self.total = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Adds values (n,)."""
        buckets = np.searchsorted(self.bounds, values)
        self.counts += np.bincount(buckets, minlength=len(self.counts))
        self.total += float(values.sum())


@dataclass(eq=False, slots=True)
class Statistics:
    """Sums since the start; written by the engine's thread, read by any thread.

    Attributes:
        first_token: seconds from a generation's arrival to its first token.
        between_tokens: seconds between two consecutive tokens of one generation.
        whole: seconds from a generation's arrival to its end.
        prompt_tokens, generated_tokens: of finished generations.
        finished: generations by finish reason.
    """

    first_token: Distribution = field(default_factory=Distribution)
    between_tokens: Distribution = field(default_factory=Distribution)
    whole: Distribution = field(default_factory=Distribution)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)

    def note_tokens(
        self, arrived: NDArray[np.float64], last: NDArray[np.float64], now: float
    ) -> None:
        """Records one token for each of n rows.

        Args:
            arrived: (n,) arrival times of the rows' requests.
            last: (n,) times of their previous tokens; NaN if this is the first.
            now: on the same clock.
        """
        is_first = np.isnan(last)
        if is_first.any():
            self.first_token.add(now - arrived[is_first])
        if not is_first.all():
            self.between_tokens.add(now - last[~is_first])

    def note_end(self, reason: str, num_prompt: int, num_generated: int, seconds: float) -> None:
        """Records a finished generation."""
        self.finished[reason] += 1
        self.prompt_tokens += num_prompt
        self.generated_tokens += num_generated
        self.whole.add(np.asarray([seconds]))
