"""Webhooks to a real HTTP server that fails, hangs and redirects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY

from errata.catalog.catalog import Catalog
from errata.catalog.happenings import Kind
from errata.catalog.webhooks.outbox import deliver
from errata.catalog.webhooks.targets import Target
from tests.integration.catalog.receiver import DRIPS, SECRET, Receiver, receiver
from tests.integration.catalog.rig import Rig, edit
from tests.integration.log import entries
from tests.integration.log.harness import eventually

FAST = {"webhook_first_delay_seconds": 0.01, "webhook_max_delay_seconds": 0.02}


def target(where: Receiver, name: str = "ops", **more: Any) -> Target:
    return Target(
        **{"name": name, "url": where.url, "secret": SECRET, "allow_private": True} | more
    )


@asynccontextmanager
async def delivering(
    rig: Rig, *targets: Target, name: str = "catalog", **settings: Any
) -> AsyncIterator[Catalog]:
    async with rig.serving(name, **{**FAST, **settings}) as served:
        task = asyncio.create_task(deliver(served.catalog, targets, served.catalog.settings))
        known = "SELECT count(*) FROM targets"
        try:
            await eventually(
                lambda: served.catalog.access.change(
                    lambda: (
                        served.catalog.access.database.connection.execute(known).fetchone()[0]
                        == len(targets)
                    )
                ),
                "the targets to begin",
            )
            yield served.catalog
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def delivered_up_to(catalog: Catalog, name: str) -> int:
    def read() -> int:
        found = catalog.access.database.connection.execute(
            "SELECT delivered FROM targets WHERE name = ?", (name,)
        )
        return int(found.fetchone()[0])

    return await catalog.access.change(read)


async def test_events_are_repeated_in_order_until_they_are_taken(rig: Rig) -> None:
    with receiver(500, 503, 200, 404) as server:
        async with delivering(rig, target(server)) as catalog:
            (name,) = await rig.request(edit("The capital of Freedonia is"))
            commit = await rig.append(entries.commit(name))
            await eventually(lambda: len(server.taken()) == 2, "both events")
            seq = int(name.split("/")[1].split("-")[0])
            first, second = f"{catalog.log_id}/{seq}/{name}", f"{catalog.log_id}/{commit}/{name}"
            assert server.ids() == [first, first, first, second, second]
            assert server.taken() == [first, second]
            assert all(each.signed for each in server.requests)
            assert [each.body["type"] for each in server.requests[2:4]] == [
                "errata.edit.requested",
                "errata.edit.committed",
            ]
            assert server.requests[-1].body["data"]["edit"] == name


async def test_a_redirect_is_a_failure_and_is_not_followed(rig: Rig) -> None:
    with receiver() as inside, receiver(302, 307) as server:
        server.location = inside.url
        async with delivering(rig, target(server)):
            await rig.request(edit("The capital of Freedonia is"))
            await eventually(lambda: server.taken(), "the event")
    assert len(server.requests) == 3
    assert not inside.requests


@pytest.mark.parametrize("how", [0, DRIPS])
async def test_a_target_that_hangs_holds_up_no_other(rig: Rig, how: int) -> None:
    with receiver(*[how] * 1_000) as hanging, receiver() as server:
        async with delivering(
            rig,
            target(hanging, "hanging"),
            target(server),
            webhook_timeout_seconds=0.2,
        ):
            for index in range(5):
                await rig.request(edit(f"The capital of {index} Freedonia is"))
            # A slow answer counts as none, and its event comes again.
            await eventually(lambda: len(set(server.taken())) == 5, "all events of the other")
            await eventually(lambda: len(hanging.requests) >= 2, "a second attempt")
    assert len(set(hanging.ids())) == 1, "the first event is tried again and again"


async def test_no_request_goes_to_a_private_address(rig: Rig) -> None:
    failed = {"target": "inside", "outcome": "failed"}

    def failures() -> float:
        return REGISTRY.get_sample_value("errata_webhook_deliveries_total", failed) or 0.0

    before = failures()
    with receiver() as server:
        async with delivering(rig, target(server, "inside", allow_private=False)) as catalog:
            await rig.request(edit("The capital of Freedonia is"))
            await eventually(lambda: failures() >= before + 2, "two attempts")
            assert await delivered_up_to(catalog, "inside") < catalog.seq << 20
    assert not server.requests


async def test_a_target_gets_the_kinds_that_it_wants(rig: Rig) -> None:
    with receiver() as server:
        wanted = frozenset({Kind.COMMITTED})
        async with delivering(rig, target(server, kinds=wanted)):
            first, second = await rig.request(
                edit("The capital of Freedonia is"), edit("The river of Freedonia is")
            )
            await rig.append(entries.reject(second))
            await rig.append(entries.commit(first))
            await eventually(lambda: server.taken(), "the commit")
    assert [each.body["type"] for each in server.requests] == ["errata.edit.committed"]


async def test_a_restart_repeats_nothing_and_leaves_nothing_out(rig: Rig) -> None:
    with receiver() as server:
        async with delivering(rig, target(server)) as catalog:
            await rig.request(edit("The capital of Freedonia is"))
            await eventually(lambda: len(server.taken()) == 1, "the first event")
            number = (await rig.log.head()).head_seq << 20
            await eventually(
                lambda: _is(delivered_up_to(catalog, "ops"), number), "the stored position"
            )
        await rig.request(edit("The river of Freedonia is"))  # nobody delivers now
        async with delivering(rig, target(server)):
            await rig.request(edit("The hill of Freedonia is"))
            await eventually(lambda: len(server.taken()) == 3, "all events")
    assert len(set(server.ids())) == 3


async def _is(value: Any, expected: int) -> bool:
    return bool(await value == expected)


async def test_an_event_that_is_too_old_is_given_up_and_counted(rig: Rig) -> None:
    labels = {"target": "late", "outcome": "given_up"}
    before = REGISTRY.get_sample_value("errata_webhook_deliveries_total", labels) or 0.0
    with receiver(*[500] * 3) as server:
        settings = {"webhook_horizon_seconds": 0.001}
        async with delivering(rig, target(server, "late"), **settings):
            await rig.request(edit("The capital of Freedonia is"), edit("The river of France is"))
            await eventually(
                lambda: (
                    (REGISTRY.get_sample_value("errata_webhook_deliveries_total", labels) or 0)
                    >= before + 2
                ),
                "both events to be given up",
            )
            server.answers.clear()
            (name,) = await rig.request(edit("The hill of Freedonia is"))
            await eventually(lambda: server.taken(), "the next event")
    assert server.taken()[0].endswith(name)
