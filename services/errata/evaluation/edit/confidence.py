"""Confidence intervals of means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

from scipy.stats import t


def half_width(values: Sequence[float]) -> float | None:
    """Half-width of the 95 % confidence interval of the mean (Student's t); None for one value."""
    if len(values) < 2:
        return None
    return float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
