"""When a writer may take the epoch, and how long it keeps standby writers waiting."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import structlog

from errata.errors import EpochLostError, ErrataError, LimitExceededError, UnavailableError
from errata.platform.retry import until_available
from errata.platform.settings import WriterSettings
from errata.writer.log_client import LogClient

_log = structlog.get_logger(__name__)
_RENEWALS = 4  # in the time of one lease: some may be late or lost
_LONGEST_LOOK_SECONDS = 1.0


class Lease:
    """A writer's lease in the log's Redis, which counts its time.

    It protects nothing: only the epoch does. A writer whose lease has ended goes on as long as no
    other writer has taken the epoch.
    """

    def __init__(self, log: LogClient, settings: WriterSettings) -> None:
        """Asks for nothing yet; `log` is the writer's."""
        self._log = log
        self._is_standby = settings.standby
        self._ttl = settings.lease_ttl_seconds

    async def take(self) -> int:
        """Takes the epoch: at once, or, as a standby, when no other writer's lease runs.

        Returns:
            The log's head afterwards.

        Raises:
            LogUnavailableError: the log cannot be reached; a standby waits for it instead.
        """
        if self._is_standby:
            await self._take_when_free()
        else:
            await self._log.acquire_epoch(self._ttl)
        return (await until_available(self._log.state, "the log")).head.seq

    async def keep(self) -> NoReturn:
        """Renews the lease until cancelled.

        Raises:
            EpochLostError: another writer took over.
        """
        while True:
            await asyncio.sleep(self._ttl / _RENEWALS)
            try:
                await self._log.renew_lease(self._ttl)
            except EpochLostError:
                raise
            except ErrataError as error:  # a lease protects nothing
                _log.warning("the lease was not renewed", reason=error.message)

    async def end(self) -> None:
        """Lets a standby take over at once; call it after the last append."""
        try:
            await self._log.renew_lease(0)
        except ErrataError as error:
            _log.warning("the lease runs out by itself", reason=error.message)

    async def _take_when_free(self) -> None:
        pause = min(_LONGEST_LOOK_SECONDS, self._ttl / _RENEWALS)
        is_told = False
        while True:
            try:
                if await self._log.lease_left() == 0:
                    if await self._log.acquire_epoch(self._ttl, only_if_free=True):
                        return
                elif not is_told:
                    _log.info("standing by: another writer is active")
                    is_told = True
            except (UnavailableError, LimitExceededError) as error:
                _log.warning("standing by without the log", reason=error.message)
            await asyncio.sleep(pause)
