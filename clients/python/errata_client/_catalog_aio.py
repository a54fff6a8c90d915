"""Searches and events for the asynchronous client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import TypeVar

from errata_client import _catalog_calls, catalog, types
from errata_client._calls import Call, Page
from errata_client._session import Session

T = TypeVar("T")


class AsyncCatalogCalls(ABC):
    """What `AsyncClient` offers to find edits, and to learn what happens to them."""

    session: Session

    @abstractmethod
    def _pages(
        self, page: Callable[[str], Call[Page[T]]], timeout: float | None
    ) -> AsyncIterator[T]: ...

    @abstractmethod
    def _stream(self, call: Call[T], timeout: float | None) -> AsyncIterator[T]: ...

    async def find_edits(
        self,
        text: str = "",
        *,
        states: Sequence[types.EditState] = (),
        lane: str = "",
        author: str = "",
        method: str = "",
        subject: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        namespace: str | None = None,
        newest: bool = False,
        min_seq: int | None = None,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[catalog.FoundEdit]:
        """Edits that contain a text and match the filters, best match first.

        Args:
            text: words that prompt, subject, target, rephrases, source and comments contain, all of
                them; `"several words"` in this order; `word*` as the beginning of a word. Without
                it, all edits that match the filters, newest first.
            states: their current state is one of these.
            lane: `lanes/{lane}`.
            author: who submitted them.
            method: of their lane.
            subject: their subject, ignoring case.
            since: submitted at this time or later; a time without a zone is local time.
            until: submitted before this time.
            namespace: that they belong to; None finds all that the caller may see.
            newest: newest first, whatever the text; else the best 10,000 at most.
            min_seq: never answer from an older position; by default the latest one whose effect
                this client has seen.
            limit: most edits; all if None.
            timeout: seconds for each page.

        Raises:
            InvalidRequestError: the text has no word to look for.
        """
        least = self.session.min_seq(min_seq)
        filters = (lane, author, method, subject, since, until, namespace)

        def page(token: str) -> Call[Page[catalog.FoundEdit]]:
            return _catalog_calls.find_edits(text, states, *filters, newest, least, limit, token)

        left = limit
        async for found in self._pages(page, timeout):
            if left is not None:
                if left <= 0:
                    return
                left -= 1
            yield found

    async def events(
        self,
        from_seq: int | None = None,
        *,
        after: str = "",
        kinds: Sequence[str] = (),
        edit: str = "",
        follow: bool = True,
        timeout: float | None = None,
    ) -> AsyncIterator[catalog.Event]:
        """Events in order: those that have happened, then each as it happens.

        Args:
            from_seq: first position wanted; only new events if None.
            after: name of the last event that the caller has; events behind it are wanted.
            kinds: only events of these kinds, such as `edit.committed`.
            edit: only events of this edit.
            follow: wait for more; if False, end behind the events that have happened.
            timeout: seconds, for the whole stream; no limit if None.

        Raises:
            UnavailableError: the connection broke; continue with `after`.
            OutOfRangeError: `from_seq` is beyond the log's head, or before what the catalog knows.
        """
        call = _catalog_calls.watch_events(from_seq, after, kinds, edit, follow)
        async for events in self._stream(call, timeout):
            for event in events:
                yield event

    def shaped_answers(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[catalog.ShapedCount]:
        """Edits that shaped answers, most answers first, counted by the hour.

        Args:
            since: from the hour of this time on; the last 24 hours if None.
            until: hours that begin before this time; up to now if None.
            timeout: seconds for each page.
        """
        return self._pages(
            lambda token: _catalog_calls.shaped_answers(since, until, token), timeout
        )
