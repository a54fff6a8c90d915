"""Delivers events to one target in order, again and again until it takes them."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from errata.catalog.catalog import Catalog
from errata.catalog.database import Database
from errata.catalog.happenings import Event
from errata.catalog.reading import EventFilter, newest_event
from errata.catalog.webhooks.messages import message_of
from errata.catalog.webhooks.sending import Sender
from errata.catalog.webhooks.targets import Target
from errata.platform.failpoints import failpoint_async
from errata.platform.metrics import WEBHOOK_DELIVERIES, WEBHOOK_FAILURES
from errata.platform.settings import CatalogSettings

_LOOK_SECONDS = 5.0
_MOST_DOUBLINGS = 30
_OUTCOMES = ("delivered", "failed", "given_up")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a target is; kept in the database.

    Attributes:
        delivered: id of the last event that it took, or that was given up.
        failures: attempts since then that failed.
        next_attempt: seconds since 1970 before which no attempt is made.
        failing_since: when the first of these failed, in seconds since 1970; 0 without failures.
    """

    delivered: int
    failures: int = 0
    next_attempt: float = 0.0
    failing_since: float = 0.0


def delay_after(failures: int, first: float, longest: float, draw: float) -> float:
    """Seconds to wait after so many failed attempts: doubled each time, with jitter.

    Args:
        failures: 1 or more.
        first: after the first one.
        longest: the most, before jitter.
        draw: from 0 to 1; the wait is between half and all of what it could be.
    """
    whole = min(longest, first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
    return whole * (0.5 + 0.5 * draw)


class Delivery:
    """Sends a target its events; the position is stored behind each, so none is left out."""

    def __init__(
        self,
        catalog: Catalog,
        target: Target,
        sender: Sender,
        settings: CatalogSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Sends nothing yet.

        Args:
            catalog: knows the events.
            target: gets them.
            sender: makes the attempts.
            settings: delays and horizon.
            clock: seconds since 1970.
        """
        self._catalog = catalog
        self._target = target
        self._sender = sender
        self._settings = settings
        self._clock = clock
        self._wanted = EventFilter(kinds=target.kinds)

    async def run(self) -> None:
        """Delivers until it is cancelled."""
        name = self._target.name
        for outcome in _OUTCOMES:  # so that each is scraped before it happens
            WEBHOOK_DELIVERIES.labels(name, outcome)
        progress = await self._catalog.access.keep(
            lambda: begin(self._catalog.access.database, name)
        )
        WEBHOOK_FAILURES.labels(name).set(progress.failures)
        after = progress.delivered
        while True:
            seen = self._catalog.version
            events, newest, _ = await self._catalog.events(after, self._wanted)
            if not events:
                after = max(after, newest)
                await self._catalog.wait_for_news(seen, _LOOK_SECONDS)
                continue
            progress = await self._attempt(progress, events)
            after = max(after, progress.delivered)

    async def _attempt(self, progress: Progress, events: list[Event]) -> Progress:
        """Tries the first of the next events once, and stores what came of it."""
        # A clock that was ahead once may have stored a time that is far away.
        wait = min(progress.next_attempt - self._clock(), self._settings.webhook_max_delay_seconds)
        await asyncio.sleep(max(0.0, wait))
        event = events[0]
        await failpoint_async("catalog.webhook.before_send")
        attempt = await self._sender.send(self._target, message_of(event, self._catalog.log_id))
        await failpoint_async("catalog.webhook.after_send")
        if attempt.is_delivered:
            self._count("delivered")
            progress = Progress(event.number)
        else:
            self._count("failed")
            progress = self._failed(progress, events, attempt.problem, attempt.retry_after)
        WEBHOOK_FAILURES.labels(self._target.name).set(progress.failures)
        name = self._target.name
        await self._catalog.access.keep(lambda: save(self._catalog.access.database, name, progress))
        return progress

    def _failed(
        self, progress: Progress, events: list[Event], problem: str, retry_after: float
    ) -> Progress:
        settings, now, failures = self._settings, self._clock(), progress.failures + 1
        _log.warning(
            "a webhook was not delivered",
            target=self._target.name,
            webhook_event=events[0].name,
            failures=failures,
            problem=problem,
        )
        longest = settings.webhook_max_delay_seconds
        wait = delay_after(failures, settings.webhook_first_delay_seconds, longest, random.random())
        wait = max(wait, min(retry_after, longest))
        # What grew old while nobody delivered gets as long as any other event.
        since = min(progress.failing_since, now) if progress.failures else now
        progress = replace(
            progress, failures=failures, next_attempt=now + wait, failing_since=since
        )
        for event in events:
            if now - max(event.time / 1e6, since) <= settings.webhook_horizon_seconds:
                break
            self._count("given_up")
            _log.error(
                "a webhook's event is given up",
                target=self._target.name,
                webhook_event=event.name,
                kind=event.kind.value,
                problem=problem,
            )
            progress = replace(progress, delivered=event.number)
        return progress

    def _count(self, outcome: str) -> None:
        WEBHOOK_DELIVERIES.labels(self._target.name, outcome).inc()


def begin(database: Database, name: str) -> Progress:
    """How far a target is; a new one begins behind the events that have happened."""
    found = database.connection.execute(
        "SELECT delivered, failures, next_attempt, failing_since FROM targets WHERE name = ?",
        (name,),
    ).fetchone()
    newest = newest_event(database.connection)
    if found is None:
        progress = Progress(newest)
    else:
        # Of a log that was restored, the last entries may be gone.
        progress = Progress(min(found[0], newest), *found[1:])
    save(database, name, progress)
    return progress


def save(database: Database, name: str, progress: Progress) -> None:
    """Stores how far a target is."""
    with database.change() as connection:
        _put(connection, name, progress)


def _put(connection: sqlite3.Connection, name: str, progress: Progress) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO targets VALUES (?, ?, ?, ?, ?)",
        (
            name,
            progress.delivered,
            progress.failures,
            progress.next_attempt,
            progress.failing_since,
        ),
    )
