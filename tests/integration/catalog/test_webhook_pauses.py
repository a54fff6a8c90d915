"""Webhooks after pauses, with clocks that were wrong, and to addresses that lead nowhere."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
from prometheus_client import REGISTRY

from errata.catalog.catalog import Catalog
from errata.catalog.happenings import Event, Kind
from errata.catalog.webhooks import delivery
from errata.catalog.webhooks.delivery import Delivery, Progress
from errata.catalog.webhooks.messages import message_of
from errata.catalog.webhooks.sending import Sender
from errata.catalog.webhooks.targets import Target
from tests.integration.catalog.receiver import SECRET, Receiver, receiver
from tests.integration.catalog.rig import Rig, edit
from tests.integration.log.harness import eventually
from tests.waiting import PATIENCE

DAY = 86_400.0
FAST = {"webhook_first_delay_seconds": 0.01, "webhook_max_delay_seconds": 0.02}


def target(where: Receiver, name: str) -> Target:
    return Target(name=name, url=where.url, secret=SECRET, allow_private=True)


@asynccontextmanager
async def sending(
    catalog: Catalog, to: Target, ahead_seconds: float = 0.0
) -> AsyncIterator[Delivery]:
    """A delivery that runs, by a clock that is ahead."""
    async with Sender(PATIENCE) as sender:
        made = Delivery(
            catalog, to, sender, catalog.settings, clock=lambda: time.time() + ahead_seconds
        )
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def stored(catalog: Catalog, name: str, **changes: Any) -> Progress:
    """How far a target is, after what is changed."""
    database = catalog.access.database

    def change() -> Progress:
        progress = delivery.begin(database, name)
        if changes:
            progress = Progress(progress.delivered, **changes)
            delivery.save(database, name, progress)
        return progress

    return await catalog.access.keep(change)


def outcomes(name: str, outcome: str) -> float:
    labels = {"target": name, "outcome": outcome}
    return REGISTRY.get_sample_value("errata_webhook_deliveries_total", labels) or 0.0


async def test_what_grew_old_in_a_pause_is_not_given_up_at_the_first_failure(rig: Rig) -> None:
    before = outcomes("paused", "given_up")
    with receiver(500, 503) as server:
        async with rig.serving("catalog", **FAST) as served:
            await stored(served.catalog, "paused")
            await rig.request(edit("The capital of Freedonia is"), edit("The river of Sylvania is"))
            async with sending(served.catalog, target(server, "paused"), 10 * DAY):
                await eventually(lambda: len(server.taken()) == 2, "both events")
    assert outcomes("paused", "given_up") == before


async def test_the_horizon_is_measured_over_restarts(rig: Rig) -> None:
    before = outcomes("down", "given_up")
    with receiver(*[500] * 1_000) as server:
        async with rig.serving("catalog", **FAST) as served:
            await stored(served.catalog, "down")
            await rig.request(edit("The capital of Freedonia is"))
            async with sending(served.catalog, target(server, "down")):
                await eventually(lambda: len(server.requests) >= 2, "failures")
            progress = await stored(served.catalog, "down")
            assert progress.failures >= 1
            assert 0 < progress.failing_since <= time.time()
        async with rig.serving("catalog", **FAST) as served:
            assert await stored(served.catalog, "down") == progress
            async with sending(served.catalog, target(server, "down"), 10 * DAY):
                await eventually(lambda: outcomes("down", "given_up") == before + 1, "the end")


async def test_times_of_a_clock_that_was_years_ahead_hold_nothing_up(rig: Rig) -> None:
    before, far = outcomes("ahead", "given_up"), time.time() + 3_650 * DAY
    with receiver(*[500] * 1_000) as server:
        settings = {**FAST, "webhook_horizon_seconds": 0.001}
        async with rig.serving("catalog", **settings) as served:
            await stored(served.catalog, "ahead", failures=3, next_attempt=far, failing_since=far)
            await rig.request(edit("The capital of Freedonia is"))
            async with sending(served.catalog, target(server, "ahead")):
                await eventually(lambda: server.requests, "an attempt")
                await eventually(lambda: outcomes("ahead", "given_up") == before + 1, "the end")


@contextmanager
def black_hole(host: str, port: int) -> Iterator[None]:
    """An address that answers no connection, because its queue is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind((host, port))
        full.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect((host, port))
        yield


async def test_an_address_that_leads_nowhere_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolved = socket.getaddrinfo

    def two(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        """Answers of a name server that knows two addresses."""
        hosts = ["127.0.0.2", "127.0.0.1"] if host == "hooks.example" else [host]
        return [each for one in hosts for each in resolved(one, port, *args, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    event = Event(1 << 20, Kind.REQUESTED, 0, None, "lanes/a", "", "", "", "")
    with receiver() as server, black_hole("127.0.0.2", server.port):
        to = Target(
            name="two",
            url=f"http://hooks.example:{server.port}/",
            secret=SECRET,
            allow_private=True,
        )
        async with Sender(8.0) as sender:
            attempt = await sender.send(to, message_of(event, "log"))
    assert attempt.is_delivered, attempt.problem
    assert len(server.taken()) == 1
