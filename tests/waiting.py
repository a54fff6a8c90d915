"""How long tests wait: until something happens, for as long as any machine may need.

A limit guards against hanging and measures nothing: a slow machine is no fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 180.0
"""Seconds after which something that must happen will not happen any more."""


def wait(true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Returns once `true()`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s until {what}"
        time.sleep(0.02)
