"""Canaries: edits on a part of the requests first. Plain, frozen values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


class CanaryState(enum.Enum):
    """State of a canary; `UNKNOWN` stands for states that this version of the SDK does not know."""

    UNKNOWN = 0
    OPEN = 1
    PROMOTED = 2
    ROLLED_BACK = 3

    @classmethod
    def _missing_(cls, value: object) -> CanaryState:
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class CanaryRule:
    """Ends a canary without a person.

    Attributes:
        min_requests: it decides once this many requests were in the canary, for a promotion under
            its present audience; at least 1.
        max_error_increase: it rolls back if the canary's share of errors exceeds the rest's by
            more than this; the share of a rest without requests is 0.
        promote_after_seconds: it promotes once the canary was open for this long with its present
            audience; never if 0.
    """

    min_requests: int
    max_error_increase: float
    promote_after_seconds: int = 0


@dataclass(frozen=True, slots=True)
class CanaryCounts:
    """Sums over the requests of one arm.

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

    @property
    def error_share(self) -> float | None:
        """Share of the requests that failed; None without requests."""
        return self._share(self.errors)

    @property
    def claim_share(self) -> float | None:
        """Share of the requests that an edit of the canary shaped; None without requests."""
        return self._share(self.claims)

    @property
    def shaped_share(self) -> float | None:
        """Share of the requests that any edit shaped; None without requests."""
        return self._share(self.shaped)

    @property
    def mean_seconds(self) -> float | None:
        """Mean time of a request, in seconds; None without requests."""
        return self._share(self.microseconds / 1_000_000)

    def _share(self, part: float) -> float | None:
        return part / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class CanaryComparison:
    """What replicas counted for the requests that read a canary's namespace.

    Attributes:
        canary: requests in the canary.
        rest: the others.
    """

    canary: CanaryCounts
    rest: CanaryCounts


@dataclass(frozen=True, slots=True)
class Canary:
    """A trial of edits on a part of the requests.

    Attributes:
        name: `canaries/{canary}`.
        state: open, promoted or rolled back.
        lane: of all of its edits.
        namespace: of all of its edits; empty for the default one.
        share: of the requests that read the namespace, 0 to 1. Of one that was rolled back, share,
            readers and rule are the last with which a request could be in it.
        readers: requests that read one of these namespaces as well are in it.
        rule: ends it by itself; None if only people end it.
        comment: of the newest entry about it that has one.
        author: who opened it.
        opened_seq: position of the entry that opened it.
        open_time: when.
        set_seq: position of the entry that last set its audience or rule.
        set_time: when.
        ended_seq: position of the entry that ended it; 0 while it is open.
        end_time: when; None while it is open.
        ended_by: a person, or `errata-writer` by its rule; empty while it is open.
        edits: names of its edits, whatever their state, in log order.
        comparison: both arms, the last counts if it has ended; None if nothing was reported.
    """

    name: str
    state: CanaryState
    lane: str
    namespace: str
    share: float
    readers: tuple[str, ...]
    rule: CanaryRule | None
    comment: str
    author: str
    opened_seq: int
    open_time: datetime
    set_seq: int
    set_time: datetime
    ended_seq: int = 0
    end_time: datetime | None = None
    ended_by: str = ""
    edits: tuple[str, ...] = ()
    comparison: CanaryComparison | None = None
