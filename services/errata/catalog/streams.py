"""Streams of events: those that have happened, then each as it happens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from errata.catalog.catalog import Catalog
from errata.catalog.database import id_of, place_of
from errata.catalog.happenings import Event
from errata.catalog.reading import EventFilter
from errata.errors import SeqTrimmedError

PROGRESS_SECONDS = 1.0
_REACH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Begin:
    """Where a stream begins: with new events only, if neither is given.

    Attributes:
        from_seq: first position wanted.
        after: id of the event behind which it begins.
    """

    from_seq: int | None = None
    after: int | None = None


async def watch(
    catalog: Catalog, begin: Begin, wanted: EventFilter, *, until_now: bool
) -> AsyncIterator[tuple[list[Event], int]]:
    """Yields events in order, and the catalog's position; without events, it is progress.

    Args:
        catalog: knows the events.
        begin: where to begin.
        wanted: which events.
        until_now: ends with the progress behind the events that have happened.

    Raises:
        SeqTrimmedError: the catalog does not know events so old.
        SeqBeyondHeadError, ReplicaBehindError: the begin was not reached.
    """
    after = await _first(catalog, begin)
    told = 0.0
    while True:
        seen = catalog.version
        events, newest, seq = await catalog.events(after, wanted)
        if events:
            after, told = events[-1].number, time.monotonic()
            yield events, seq
            continue
        after = max(after, newest)
        if time.monotonic() - told >= PROGRESS_SECONDS or until_now:
            told = time.monotonic()
            yield [], seq
        if until_now:
            return
        await catalog.wait_for_news(seen, PROGRESS_SECONDS)


async def _first(catalog: Catalog, begin: Begin) -> int:
    """The id behind which a stream begins."""
    if begin.after is None and begin.from_seq is None:
        return (await catalog.events(0, EventFilter(kinds=frozenset())))[1]
    if begin.after is not None:
        after, seq = begin.after, place_of(begin.after)[0]
    else:
        seq = (begin.from_seq or 1) - 1
        after = id_of(seq + 1, 0) - 1
    if seq + 1 < catalog.events_from:
        raise SeqTrimmedError(
            f"this catalog began with a snapshot and knows the events from {catalog.events_from:,} "
            "on; ask from there. With catalog.start=log a new database knows all.",
            field="from_seq",
            floor_seq=catalog.events_from,
        )
    await catalog.reach(seq, _REACH_SECONDS)
    return after
