"""How fast one identity may ask and edit: a token bucket for each; off unless it is set.

An identity is the credential's subject, or the address of a caller who has none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any

from starlette.requests import Request

from errata.errors import QueueFullError
from errata.platform.security.identity import current
from errata.platform.settings import GatewaySettings

_MAX_BUCKETS = 10_000


class TokenBuckets:
    """A bucket for each key; it holds up to `burst` tokens and gets `per_second` new ones."""

    def __init__(
        self,
        per_second: float,
        burst: int,
        what: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """All buckets are full.

        Args:
            per_second: new tokens; 0 limits nothing.
            burst: most tokens of a bucket.
            what: is limited; named in the message.
            clock: seconds that never go back.
        """
        self._per_second = per_second
        self._burst = burst
        self._what = what
        self._clock = clock
        self._left: dict[Hashable, tuple[float, float]] = {}  # tokens, and when they were counted

    def __len__(self) -> int:
        """Number of buckets that are not known to be full."""
        return len(self._left)

    def take(self, key: Hashable, number: int) -> None:
        """Takes tokens, as many as the burst at most, so that every request can pass.

        Raises:
            QueueFullError: the bucket has too few; it says when it will have enough.
        """
        if not self._per_second:
            return
        number = min(number, self._burst)
        now = self._clock()
        left = self._tokens(key, now)
        if left < number:
            seconds = (number - left) / self._per_second
            raise QueueFullError(
                f"more than {self._per_second:g} {self._what} a second; try again in "
                f"{seconds:.1f} s.",
                retry_after_seconds=seconds,
            )
        self._left.pop(key, None)
        if len(self._left) >= _MAX_BUCKETS:
            self._forget(now)
        self._left[key] = (left - number, now)

    def _tokens(self, key: Hashable, now: float) -> float:
        tokens, then = self._left.get(key, (self._burst, now))
        return min(self._burst, tokens + (now - then) * self._per_second)

    def _forget(self, now: float) -> None:
        """Drops full buckets, and if there are none, the one that was used longest ago."""
        full = [key for key in self._left if self._tokens(key, now) >= self._burst]
        for key in full or [next(iter(self._left))]:
            del self._left[key]


class Rates:
    """The limits of a gateway, shared by gRPC and HTTP."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Takes the limits from the settings."""
        self._answers = TokenBuckets(
            settings.answers_per_second, settings.answers_burst, "answers of one caller"
        )
        self._edits = TokenBuckets(
            settings.edits_per_second, settings.edits_burst, "edits of one caller in one lane"
        )

    def answer(self, identity: str, number: int = 1) -> None:
        """Counts answers that somebody asks for.

        Raises:
            QueueFullError: too many.
        """
        self._answers.take(identity, number)

    def edit(self, identity: str, lane: str, number: int) -> None:
        """Counts edits that somebody requests.

        Raises:
            QueueFullError: too many.
        """
        self._edits.take((identity, lane), number)


def caller_of_call(context: Any) -> str:
    """Who makes a gRPC call: his subject, or his address without its port: `ipv4:10.0.0.7`."""
    if (caller := current()) is not None:
        return caller.subject
    return str(context.peer()).rpartition(":")[0]


def caller_of_request(request: Request) -> str:
    """Who makes an HTTP request, in the form of `caller_of_call`."""
    if (caller := current()) is not None:
        return caller.subject
    host = request.client.host if request.client else ""
    return f"ipv6:%5B{host}%5D" if ":" in host else f"ipv4:{host}"
