"""Watches the log for the whole service and delivers new entries to its subscribers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import structlog

from errata.errors import (
    ErrataError,
    LimitExceededError,
    LogBehindWitnessError,
    LogUnavailableError,
    UnavailableError,
)
from errata.log.history import Page
from errata.log.store import RedisLog
from errata.platform.detached import Detached
from errata.platform.failpoints import failpoint_async

# How long the watcher waits for another service's entry before it checks the head anyway.
TAIL_SECONDS = 1.0
# An own append that succeeds proves that no other service's entry precedes it, so the tail can
# rest: to wake for each of them would delay their answers.
_REST_SECONDS = 0.01
_RETRY_SECONDS = 0.1
_LOOK_SECONDS = 5.0  # between two looks at Redis' memory, for metrics
_PAGE_BYTES = 256 * 1024  # each follower holds a page for as long as its reader does not take it

_log = structlog.get_logger(__name__)


class Feed:
    """Delivers the log in order. `follow` sees new entries only while `run` is running."""

    def __init__(self, log: RedisLog, *, page_entries: int, progress_seconds: float) -> None:
        """Prepares the feed; `run` starts it.

        Args:
            log: the followed log.
            page_entries: maximum number of entries in one page.
            progress_seconds: interval of the progress pages that a follower gets without news.
        """
        self._source = log
        self._page_entries = page_entries
        self._progress_seconds = progress_seconds
        self._failure: ErrataError | None = None
        self._stopping = False
        self._reads = Detached()

    @property
    def available(self) -> bool:
        """Whether Redis answered last and, as far as is known, holds all acknowledged entries."""
        return self._failure is None and not self._source.is_damaged

    async def run(self) -> None:
        """Watches Redis until `stop`: adopts other services' entries and detects damage.

        While Redis does not answer, followers end with `LogUnavailableError`, because nothing
        confirms the head.

        Raises:
            LogBehindWitnessError: the log is damaged; every follower gets the same error.
            StartupError: the Redis that took over after a failure can lose entries.
        """
        # Cancellation alone is not enough: redis-py can swallow one that meets its own timeout.
        next_look = 0.0
        while not self._stopping:
            try:
                # After a failure, read the head at once: followers are waiting for it.
                seq = None if self._failure else await self._source.wait_beyond(TAIL_SECONDS)
                await failpoint_async("log.tail.before_adopt")
                if seq is None:
                    await self._source.state()
                elif not await self._source.adopt(seq):
                    await asyncio.sleep(_REST_SECONDS)
                if self._failure is not None:
                    await self._source.check_redis()
                if time.monotonic() >= next_look:
                    await self._source.measure_memory()
                    next_look = time.monotonic() + _LOOK_SECONDS
            except (UnavailableError, LimitExceededError) as error:
                if self._failure is None:
                    _log.warning("the log is unavailable", reason=error.message)
                self._failure = error
                self._source.wake()
                await asyncio.sleep(_RETRY_SECONDS)
            except LogBehindWitnessError:
                self._source.wake()
                raise
            else:
                if self._failure is not None:
                    _log.info("the log is available again")
                self._failure = None

    def stop(self) -> None:
        """Ends `run` within `TAIL_SECONDS`, and every follower after its current page."""
        self._stopping = True
        self._source.wake()

    async def follow(self, from_seq: int) -> AsyncIterator[Page]:
        """Yields contiguous pages of entries from `from_seq` on, as they are appended.

        A page without entries is a progress page: everything up to its head was delivered. It
        comes at once if there is nothing to deliver, and then after every `progress_seconds`
        without news. At most one page is in memory: the consumer's next request reads the next.

        Raises:
            InvalidRequestError: `from_seq` is below 1.
            SeqTrimmedError: `from_seq`, or the next entry for the consumer, is below the floor.
            SeqBeyondHeadError: `from_seq` is above head + 1.
            LogUnavailableError: Redis does not answer.
            LogBehindWitnessError: the log is damaged.
        """
        await self._source.state()  # the current head, including other services' entries
        page = await self._source.read_retained(from_seq, self._page_entries, _PAGE_BYTES)
        while not self._stopping:
            yield page
            from_seq += len(page.entries)
            await self._source.wait_for_news(from_seq - 1, self._progress_seconds)
            self._source.check()
            if self._failure is not None:
                raise LogUnavailableError(self._failure.message)
            page = await self._next_page(from_seq)

    async def _next_page(self, next_seq: int) -> Page:
        head = self._source.head
        if head.seq < next_seq:
            return Page(head, (), head)
        # Followers at the head ask for the same page at the same time: one read serves them all.
        return await self._reads.run(
            lambda: self._source.read_retained(next_seq, self._page_entries, _PAGE_BYTES),
            key=(next_seq, head.seq),
        )
