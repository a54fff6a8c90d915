"""Entries about canaries, and what replicas count for them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum

from errata.log.signature import Signature


class Outcome(StrEnum):
    """How a canary ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True)
class CanaryRule:
    """Ends a canary without a person.

    Attributes:
        min_requests: decides once this many requests were in the canary, for a promotion under its
            present audience; at least 1.
        max_error_increase: rolls back if the canary's share of errors exceeds the rest's by more;
            the share of a rest without requests is 0.
        promote_after_seconds: promotes once the canary was open for this long with its present
            audience; never if 0.
    """

    min_requests: int
    max_error_increase: float
    promote_after_seconds: int = 0


@dataclass(frozen=True, slots=True)
class CanaryCounts:
    """Sums over requests.

    Attributes:
        requests: answered or failed.
        claims: answered, and shaped by an edit of the canary.
        shaped: answered, and shaped by any edit.
        errors: failed, for no fault of the request.
        tokens: of the answers.
        microseconds: from when the replica has reached the asked position to the answer's end.
    """

    requests: int = 0
    claims: int = 0
    shaped: int = 0
    errors: int = 0
    tokens: int = 0
    microseconds: int = 0

    def __add__(self, other: CanaryCounts) -> CanaryCounts:
        """Sums of both."""
        return CanaryCounts(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(CanaryCounts))
        )

    def most(self, other: CanaryCounts) -> CanaryCounts:
        """The larger of both, sum by sum."""
        return CanaryCounts(
            *(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(CanaryCounts))
        )

    @property
    def error_share(self) -> float:
        """Share of requests that failed; 0 without requests."""
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class CanaryComparison:
    """What replicas counted for the requests that read a canary's namespace.

    Attributes:
        opened_seq: position of the entry that opened the canary.
        canary: requests in it.
        rest: the others.
    """

    opened_seq: int
    canary: CanaryCounts = field(default_factory=CanaryCounts)
    rest: CanaryCounts = field(default_factory=CanaryCounts)

    def __add__(self, other: CanaryComparison) -> CanaryComparison:
        """Sums of both, which are of the same canary."""
        return CanaryComparison(self.opened_seq, self.canary + other.canary, self.rest + other.rest)

    def most(self, other: CanaryComparison) -> CanaryComparison:
        """The larger sums of both, which are of the same canary."""
        arms = self.canary.most(other.canary), self.rest.most(other.rest)
        return CanaryComparison(self.opened_seq, *arms)


@dataclass(frozen=True, slots=True)
class CanarySet:
    """Opens a canary, or changes the audience or the rule of an open one.

    Attributes:
        canary: `canaries/{canary}`.
        lane: of all of its edits.
        namespace: of all of its edits.
        share_ppm: share of the requests that read the namespace, in parts per million.
        readers: requests that read one of these namespaces as well are in it; sorted.
        rule: ends it by itself; None if only people end it.
        comment: why.
        rolls_back: begins a roll-back: nobody is in it from here on, and only its end follows.
        signature: by the writer; None in logs without trusted keys.
    """

    canary: str
    lane: str
    namespace: str
    share_ppm: int
    readers: tuple[str, ...] = ()
    rule: CanaryRule | None = None
    comment: str = ""
    rolls_back: bool = False
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class CanaryEnded:
    """Ends a canary.

    Attributes:
        canary: `canaries/{canary}`.
        outcome: promoted edits are in force for all readers of their namespace, others reverted.
        edits: its committed edits, in log order.
        comment: why.
        comparison: what replicas had counted; None if they reported nothing.
        signature: by the writer; None in logs without trusted keys.
    """

    canary: str
    outcome: Outcome
    edits: tuple[str, ...]
    comment: str = ""
    comparison: CanaryComparison | None = None
    signature: Signature | None = None
