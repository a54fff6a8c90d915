"""One tail of the log for a whole service, and the subscribers that it wakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import structlog

from errata.errors import LogBehindWitnessError, LogUnavailableError
from errata.log.history import Page
from errata.log.store import RedisLog

# How long the tail waits for another service's entry before it checks the head all the same.
TAIL_SECONDS = 1.0
_RETRY_SECONDS = 0.1

_log = structlog.get_logger(__name__)


class Feed:
    """Hands the log on in order. `run` must be running for `follow` to learn of anything new."""

    def __init__(self, log: RedisLog, *, page_entries: int, progress_seconds: float) -> None:
        """Starts nothing.

        Args:
            log: what to follow.
            page_entries: at most so many entries in one page.
            progress_seconds: how long a follower without news waits to be told so.
        """
        self._source = log
        self._page_entries = page_entries
        self._progress_seconds = progress_seconds
        self._failure: LogUnavailableError | None = None
        self._stopping = False

    @property
    def available(self) -> bool:
        """Whether Redis answers and holds what was acknowledged, as far as is known."""
        return self._failure is None and not self._source.is_damaged

    async def run(self) -> None:
        """Watches Redis until `stop`: adopts other services' entries, notices damage.

        While Redis does not answer, followers end with `LogUnavailableError`: a head that nobody
        can confirm is not told as news.

        Raises:
            LogBehindWitnessError: the log is damaged; every follower was told.
        """
        # Not by cancellation alone: a client library may swallow one that meets its own timeout.
        while not self._stopping:
            try:
                # After a failure the head is asked for at once: followers wait for the news.
                seq = None if self._failure else await self._source.wait_beyond(TAIL_SECONDS)
                if seq is None:
                    await self._source.state()
                else:
                    await self._source.adopt(seq)
            except LogUnavailableError as error:
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
        """Ends `run` within `TAIL_SECONDS`, and every follower at the end of its current page."""
        self._stopping = True
        self._source.wake()

    async def follow(self, from_seq: int) -> AsyncIterator[Page]:
        """Pages of entries from `from_seq` on, contiguous, as they come.

        A page without entries says that all up to its head was delivered. One comes at once if
        there is nothing to deliver, and then whenever `progress_seconds` pass without news. At
        most one page is in memory: the next is read when the consumer asks.

        Raises:
            InvalidRequestError: `from_seq` is below 1.
            SeqTrimmedError: `from_seq`, or what the consumer needs next, is below the floor.
            SeqBeyondHeadError: `from_seq` is above head + 1.
            LogUnavailableError: Redis does not answer.
            LogBehindWitnessError: the log is damaged.
        """
        await self._source.state()  # the head of this instant, other services' entries included
        page = await self._source.read(from_seq, self._page_entries)
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
        return await self._source.read(next_seq, self._page_entries)
