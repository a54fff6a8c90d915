"""How long a handler can wait before its caller's deadline."""

from __future__ import annotations

_SHARE = 0.05
_LEAST_SECONDS = 0.25
_MOST_SECONDS = 2.0


def before_deadline(seconds_left: float) -> float:
    """Seconds to wait so that the error still arrives: a caller's own timeout has no details."""
    kept = min(max(_SHARE * seconds_left, _LEAST_SECONDS), _MOST_SECONDS)
    return max(seconds_left - kept, 0.0)
