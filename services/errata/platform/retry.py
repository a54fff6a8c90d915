"""Retries until a service is available."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from errata.errors import UnavailableError

T = TypeVar("T")
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0
_log = structlog.get_logger(__name__)


async def until_available(act: Callable[[], Awaitable[T]], what: str) -> T:
    """Repeats `act` with growing, jittered delays while it raises UnavailableError.

    Args:
        act: idempotent.
        what: name of the service, for the log.
    """
    delay = _FIRST_DELAY_SECONDS
    while True:
        try:
            return await act()
        except UnavailableError as error:
            _log.warning("unavailable; retrying", what=what, reason=error.message)
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)
