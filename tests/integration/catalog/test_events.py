"""Streams of events over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from errata.catalog.replica_watch import ReplicaWatch
from errata.platform.settings import LogSettings
from errata_client._gen.errata.v1 import catalog_pb2
from errata_client._gen.errata.v1 import edit_log_pb2 as log_pb
from errata_client.errors import InvalidRequestError, OutOfRangeError, QueueFullError
from tests.integration.catalog.rig import Rig, Served, edit
from tests.integration.log import entries
from tests.integration.log.harness import eventually, failure, stream_failure
from tests.waiting import PATIENCE

KIND = catalog_pb2.Event.Kind


def watch(served: Served, **fields: Any) -> Any:
    request = catalog_pb2.WatchEventsRequest(**fields)
    return served.stub.WatchEvents(request, timeout=PATIENCE)


async def next_events(stream: Any) -> list[catalog_pb2.Event]:
    """The events of the next message that has any."""
    while True:
        message = await stream.read()
        if message.events:
            return list(message.events)


async def test_a_stream_gives_the_past_and_then_each_event_as_it_happens(rig: Rig) -> None:
    (name,) = await rig.request(edit("The capital of Freedonia is"))
    async with rig.serving() as served:
        stream, fresh = watch(served, from_seq=1), watch(served)
        (first,) = await next_events(stream)
        assert (first.kind, first.edit, first.lane) == (KIND.KIND_EDIT_REQUESTED, name, "lanes/a")
        assert first.author == "tests"
        assert (await fresh.read()).seq >= first.seq, "progress comes first"
        commit = await rig.append(entries.commit(name))
        for each in (stream, fresh):
            (event,) = await next_events(each)
            assert (event.kind, event.seq) == (KIND.KIND_EDIT_COMMITTED, commit)
            assert event.id == f"{served.catalog.log_id}/{commit}/{name}"
        stream.cancel()
        fresh.cancel()


async def test_a_stream_continues_behind_an_event_inside_an_entry(rig: Rig) -> None:
    names = await rig.request(*(edit(f"The capital of {k} Freedonia is") for k in range(3)))
    async with rig.serving() as served:
        events = await served.events(from_seq=1)
        assert [event.edit for event in events] == names
        rest = await served.events(after=events[0].name)
        assert [event.name for event in rest] == [event.name for event in events[1:]]


async def test_only_the_wanted_events_come(rig: Rig) -> None:
    first, second = await rig.request(
        edit("The capital of Freedonia is"), edit("The river of Freedonia is")
    )
    await rig.append(entries.commit(first, second))
    await rig.append(entries.revert(first))
    async with rig.serving() as served:
        reverted = await served.events(from_seq=1, kinds=[KIND.KIND_EDIT_REVERTED])
        assert [(event.edit, event.comment) for event in reverted] == [(first, "why")]
        life = await served.events(from_seq=1, edit=first)
        assert [event.kind for event in life] == [
            KIND.KIND_EDIT_REQUESTED,
            KIND.KIND_EDIT_COMMITTED,
            KIND.KIND_EDIT_REVERTED,
        ]


async def test_more_than_a_page_of_events(rig: Rig) -> None:
    names = await rig.request(*(edit(f"The capital of {k} Freedonia is") for k in range(1_201)))
    async with rig.serving() as served:
        assert [event.edit for event in await served.events(from_seq=1)] == names


async def test_what_cannot_be_asked_says_what_to_do(rig: Rig) -> None:
    async with rig.serving(max_streams=1) as served:
        for fields, message in (
            ({"from_seq": 0}, "give 1 or more"),
            ({"after": "events/x"}, "such as events/12-0"),
            ({"after": "edits/1-0"}, "such as events/12-0"),
            ({"edit": "edits/1-9999999"}, "such as edits/12-0"),
            ({"edit": f"edits/{'9' * 40}-0"}, "such as edits/12-0"),
            ({"kinds": [999]}, "999 is unknown"),
        ):
            error = await stream_failure(watch(served, **fields))
            assert isinstance(error, InvalidRequestError), fields
            assert message in error.message
        for beyond in (1_000, 2**62):
            error = await stream_failure(watch(served, from_seq=beyond))
            assert isinstance(error, OutOfRangeError)
        error = await failure(served.find(min_seq=1_000))
        assert isinstance(error, OutOfRangeError)
        held = watch(served, from_seq=1)
        await held.read()
        error = await stream_failure(watch(served, from_seq=1))
        assert isinstance(error, QueueFullError)
        assert "catalog.max_streams" in error.message
        held.cancel()


async def test_bad_requests_to_find_edits_say_what_to_do(rig: Rig) -> None:
    async with rig.serving() as served:
        for fields, message in (
            ({"text": "?!"}, "give a word"),
            ({"page_token": "nonsense"}, "leave it empty to start again"),
            ({"page_size": -1}, "give 0 or more"),
            ({"states": [99]}, "99 is unknown"),
            ({"states": [2]}, "use REQUESTED"),
            ({"order": 99}, "choose relevance or newest"),
            ({"order": 1}, "order them by newest"),
            ({"text": "x" * 4_001}, "the limit is 4,000"),
        ):
            error = await failure(served.find(**fields))
            assert isinstance(error, InvalidRequestError), fields
            assert message in error.message


@pytest.fixture
def settings(settings: LogSettings) -> LogSettings:
    """Replicas that are silent for a second are gone."""
    return settings.model_copy(update={"replica_ttl_seconds": 1.0})


@asynccontextmanager
async def reporting(rig: Rig, replica: str) -> AsyncIterator[None]:
    """A replica that reports again and again: one report can be over before anybody looks."""
    head = await rig.log.head()
    position = log_pb.ReplicaPosition(
        replica=replica, applied_seq=head.head_seq, chain_digest=head.chain_digest, role="worker"
    )

    async def report() -> None:
        while True:
            await rig.log.stub.ReportPosition(log_pb.ReportPositionRequest(position=position))
            await asyncio.sleep(0.2)

    task = asyncio.create_task(report())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_a_replica_that_no_longer_reports_makes_an_event(rig: Rig) -> None:
    async with rig.serving(replicas_seconds=0.05) as served:
        catalog = served.catalog
        replicas = ReplicaWatch(catalog, rig.log.channel, catalog.settings)
        watching = asyncio.create_task(replicas.run())
        try:
            stream = watch(served)
            await stream.read()
            async with reporting(rig, "worker-1"):
                await eventually(lambda: "worker-1" in replicas._health._known, "it is known")
            event, *_ = await next_events(stream)
            assert (event.kind, event.replica) == (KIND.KIND_REPLICA_LEFT, "worker-1")
            assert event.edit == event.lane == ""
            async with reporting(rig, "worker-1"):
                event, *_ = await next_events(stream)
            assert (event.kind, event.replica) == (KIND.KIND_REPLICA_RETURNED, "worker-1")
            stream.cancel()
        finally:
            watching.cancel()
