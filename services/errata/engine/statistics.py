"""What the engine has done so far, for whoever exports it."""

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
    """A histogram that takes whole arrays: the rows of a batch in one go.

    Attributes:
        bounds: upper ends of the buckets but the last.
        counts: of each bucket; the last has no end.
        total: sum of all values.
    """

    def __init__(self, bounds: Sequence[float] = _SECONDS) -> None:
        self.bounds = np.asarray(bounds)
        self.counts = np.zeros(len(bounds) + 1, np.int64)
        self.total = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Takes values (n,)."""
        buckets = np.searchsorted(self.bounds, values)
        self.counts += np.bincount(buckets, minlength=len(self.counts))
        self.total += float(values.sum())


@dataclass(eq=False, slots=True)
class Statistics:
    """Sums since the start; written by the engine's thread, read by any.

    Attributes:
        first_token: seconds from a generation's arrival to its first token.
        between_tokens: seconds between two tokens of one generation.
        whole: seconds from a generation's arrival to its end.
        prompt_tokens, generated_tokens: of generations that ended.
        finished: generations by reason of their end.
    """

    first_token: Distribution = field(default_factory=Distribution)
    between_tokens: Distribution = field(default_factory=Distribution)
    whole: Distribution = field(default_factory=Distribution)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)

    def note_tokens(
        self, asked: NDArray[np.float64], last: NDArray[np.float64], now: float
    ) -> None:
        """One token for each of n rows.

        Args:
            asked: (n,) when the rows' requests arrived.
            last: (n,) when they got their last token; NaN if this is the first.
            now: by the same clock.
        """
        is_first = np.isnan(last)
        if is_first.any():
            self.first_token.add(now - asked[is_first])
        if not is_first.all():
            self.between_tokens.add(now - last[~is_first])

    def note_end(self, reason: str, num_prompt: int, num_generated: int, seconds: float) -> None:
        """A generation ended."""
        self.finished[reason] += 1
        self.prompt_tokens += num_prompt
        self.generated_tokens += num_generated
        self.whole.add(np.asarray([seconds]))
