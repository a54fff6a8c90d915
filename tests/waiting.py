"""Waiting in tests: until a condition holds, for as long as any machine needs.

The limit guards against hanging and measures nothing: a slow machine must not fail a test.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 180.0
"""Seconds after which an expected event counts as missing."""


def wait(true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Returns once `true()` holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s until {what}"
        time.sleep(0.02)
