"""What the rules of canaries say, by the counts of the replicas and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from errata.log.canary_entries import CanaryComparison, CanaryCounts, Outcome
from errata.writer.canary_book import CanaryRecord


@dataclass(frozen=True, slots=True)
class Decision:
    """How a canary ends.

    Attributes:
        outcome: promoted or rolled back.
        comment: why, with the figures.
    """

    outcome: Outcome
    comment: str


def decide(
    canary: CanaryRecord, counted: CanaryComparison | None, recent: int, now: datetime
) -> Decision | None:
    """What the rule of an open canary says; None if it says nothing yet.

    Args:
        canary: is open.
        counted: what replicas counted; None if they reported nothing.
        recent: requests in it, of these, that came under its present audience.
        now: the time.
    """
    rule = canary.rule
    if rule is None or counted is None or counted.canary.requests < rule.min_requests:
        return None
    trial, rest = counted.canary, counted.rest
    figures = f"{_failed(trial)} in it failed, and {_failed(rest)} of the rest"
    if trial.error_share - rest.error_share > rule.max_error_increase:
        return Decision(
            Outcome.ROLLED_BACK,
            f"by its rule: {figures}; the rule allows {rule.max_error_increase:.2%} more.",
        )
    if not canary.has_audience or recent < rule.min_requests:
        return None
    open_seconds = (now - canary.audience_time).total_seconds()
    if rule.promote_after_seconds and open_seconds >= rule.promote_after_seconds:
        return Decision(
            Outcome.PROMOTED,
            f"by its rule: it had this audience for {open_seconds:,.0f} s; {figures}.",
        )
    return None


def _failed(counts: CanaryCounts) -> str:
    return f"{counts.errors:,} of {counts.requests:,} requests ({counts.error_share:.2%})"
