"""How long a handler may wait when its caller waits for it."""

from __future__ import annotations

_SHARE = 0.05
_LEAST_SECONDS = 0.25
_MOST_SECONDS = 2.0


def before_deadline(seconds_left: float) -> float:
    """Seconds to wait so that a told answer still arrives: a caller's own expiry tells nothing."""
    kept = min(max(_SHARE * seconds_left, _LEAST_SECONDS), _MOST_SECONDS)
    return max(seconds_left - kept, 0.0)
