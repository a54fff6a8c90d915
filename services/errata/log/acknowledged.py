"""What a log service may tell callers: Redis cannot lose it, and the witness covers it."""

from __future__ import annotations

import asyncio

import structlog

from errata.errors import ErrataError
from errata.log.backend import RedisBackend
from errata.log.chain import Position
from errata.log.witness import Witness, WitnessRecord
from errata.platform.failpoints import failpoint_async

_log = structlog.get_logger(__name__)


class Acknowledged:
    """The last acknowledged record, and the way to the next one.

    Attributes:
        record: the witness covers it.
        num_rollbacks: how often a failover of Redis took back what was not acknowledged.
    """

    def __init__(self, backend: RedisBackend, witness: Witness, record: WitnessRecord) -> None:
        """Starts from `record`, which the witness covers."""
        self.record = record
        self.num_rollbacks = 0
        self._confirmed = record
        self._num_attempts = 0  # begun so far
        self._refused: tuple[int, WitnessRecord] = (0, record)  # the last attempt that failed
        self._backend = backend
        self._witness = witness
        self._lock = asyncio.Lock()  # one confirmation serves all that wait for one

    @property
    def head(self) -> Position:
        """The last acknowledged position."""
        return self.record.head

    async def confirm(
        self, known: WitnessRecord, latest: WitnessRecord, num_rollbacks: int
    ) -> bool:
        """Whether no failover of Redis can lose `known` any more.

        Args:
            known: appended or adopted by this service.
            latest: everything that it appended or adopted so far.
            num_rollbacks: as it was when `known` was read; a later rollback may have replaced it.

        Raises:
            LogUnavailableError: Redis does not answer.
        """
        asked = self._num_attempts
        async with self._lock:
            number, refused = self._refused
            # An attempt that began after the question and failed counts for all that waited for it.
            is_refused = number > asked and refused.covers(known)
            if self.num_rollbacks == num_rollbacks and not is_refused:
                await self._attempt(latest.merged(known), known)
        return self._confirmed.covers(known) and self.num_rollbacks == num_rollbacks

    def roll_back(self) -> None:
        """Forgets what was confirmed and not acknowledged: a failover has lost it."""
        self.num_rollbacks += 1
        self._confirmed = self.record

    async def _attempt(self, wanted: WitnessRecord, known: WitnessRecord) -> None:
        if self._confirmed.covers(known):
            return
        self._num_attempts += 1
        number, since = self._num_attempts, self.num_rollbacks
        if not await self._backend.confirm(wanted):
            self._refused = (number, wanted)
        elif self.num_rollbacks == since:
            self._confirmed = wanted

    async def cover(self, known: WitnessRecord) -> bool:
        """Acknowledges what is confirmed; returns whether the head moved.

        Raises:
            LogUnavailableError: the witness cannot be synced.
        """
        await self._witness.cover(known)
        await failpoint_async("log.publish.before_head")
        is_news = known.head.seq > self.head.seq
        self.record = self.record.merged(known)
        return is_news

    async def warn(self) -> None:
        """Tells the log's other services what this one's witness covers."""
        await warn(self._backend, self.record)

    async def close(self) -> None:
        """Releases the witness."""
        await self._witness.close()


async def warn(backend: RedisBackend, record: WitnessRecord) -> None:
    """Leaves a record that Redis contradicts where the log's other services find it.

    They may not know of the loss: an entry is covered by the witness of the service that
    acknowledged it, and by those of the others only once they have read it.
    """
    try:
        await backend.warn(record)
    except ErrataError as error:
        _log.error("other log services could not be warned", reason=error.message)
