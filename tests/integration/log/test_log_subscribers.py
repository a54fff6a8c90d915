"""P1: a subscriber gets every entry once, in order, whatever happens to its link."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from errata.errors import ErrataError, LogBehindWitnessError, SeqBeyondHeadError, SeqTrimmedError
from errata.log import subscriber as subscriber_module
from errata.log.chain import ORIGIN, ChainedEntry, Position, extend
from errata.log.convert import entry_to, new_entry
from errata.log.feed import Feed
from errata.log.history import Page
from errata.log.store import RedisLog
from errata.log.subscriber import Subscriber
from errata.platform.settings import LogSettings
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from errata_client._gen.errata.v1 import edit_log_pb2_grpc
from tests.integration.log.entries import append, lane
from tests.integration.log.harness import (
    RedisServer,
    RunningLog,
    append_request,
    eventually,
    log_settings,
    running_log,
    stream_failure,
)
from tests.integration.log.history import History, judge_order
from tests.integration.log.link import Proxy
from tests.waiting import PATIENCE

pytestmark = pytest.mark.promise("P1")


async def take(
    subscriber: Subscriber, until: int, into: list[ChainedEntry] | None = None
) -> list[ChainedEntry]:
    """Entries up to `until`, as they come."""
    found = [] if into is None else into
    async with aclosing(subscriber.batches()) as batches:
        async for batch in batches:
            found += batch.entries
            if found[-1].seq >= until:
                return found
    raise AssertionError("batches never end")


async def test_broken_links_lose_and_repeat_nothing(log: RunningLog) -> None:
    history, epoch, found = History(), await log.acquire(), list[ChainedEntry]()
    async with Proxy(log.address) as link:
        subscriber = Subscriber(link.address, silence_seconds=0.4)
        taking = asyncio.create_task(take(subscriber, 600, found))
        faults = [link.cut, link.reset, link.blackhole] * 3
        random.Random(7).shuffle(faults)
        for seq in range(1, 601):
            await history.append(log, epoch)
            if seq % 60 == 0 and faults:
                await eventually(lambda: subscriber.connected and found, "a connection")
                fault = faults.pop()
                dialled = link.num_connections
                fault()
                if fault == link.blackhole:
                    await eventually(lambda n=dialled: link.num_connections > n, "a redial")
                    link.heal()
        entries = await asyncio.wait_for(taking, PATIENCE)
        assert link.num_connections >= 9
    assert not faults
    judge_order(entries)
    assert entries == await log.entries()


async def test_head_and_silence_stay_true_while_a_batch_is_applied(log: RunningLog) -> None:
    """A replica that waits for an artifact must see itself lag, and not think the log is gone."""
    history, epoch = History(), await log.acquire()
    await history.append(log, epoch)
    subscriber = Subscriber(log.address)
    async with aclosing(subscriber.batches()) as batches:
        await anext(batches)  # held from here on
        for _ in range(4):
            await history.append(log, epoch)
        await eventually(lambda: subscriber.head_seq == 5, "the head while a batch is held")
        assert subscriber.position.seq == 0
        heard = subscriber.last_progress
        await eventually(lambda: subscriber.last_progress > heard, "progress while it is held")
    rest = await take(Subscriber(log.address), 5)
    assert [entry.seq for entry in rest] == [1, 2, 3, 4, 5]


async def test_hanging_up_ends_a_reader_that_is_far_ahead(settings: LogSettings) -> None:
    one_each = settings.model_copy(update={"subscribe_batch": 1})
    async with running_log(one_each) as log:
        history, epoch = History(), await log.acquire()
        for _ in range(12):
            await history.append(log, epoch)
        subscriber = Subscriber(log.address)
        async with aclosing(subscriber.batches()) as batches:
            await anext(batches)
            await eventually(lambda: subscriber.silence_seconds == 0.0, "a full read-ahead")
            await asyncio.wait_for(batches.aclose(), PATIENCE)


async def test_silent_link_is_redialled_though_others_hold_the_connection(log: RunningLog) -> None:
    """gRPC shares connections by address; a redial must not get the dead one back."""
    epoch = await log.acquire()
    await log.append(epoch)
    async with Proxy(log.address) as link, grpc.aio.insecure_channel(link.address) as other:
        stub: Any = edit_log_pb2_grpc.EditLogServiceStub(other)
        assert (await stub.GetHead(pb.GetHeadRequest(), timeout=PATIENCE)).head_seq == 1
        subscriber, found = Subscriber(link.address, silence_seconds=0.4), list[ChainedEntry]()
        taking = asyncio.create_task(take(subscriber, 2, found))
        await eventually(lambda: found)
        dialled = link.num_connections
        link.blackhole()
        await log.append(epoch)
        await eventually(lambda: link.num_connections > dialled, "a new connection")
        assert not subscriber.connected
        link.heal()
        assert [entry.seq for entry in await asyncio.wait_for(taking, PATIENCE)] == [1, 2]


async def test_progress_comes_without_entries(log: RunningLog) -> None:
    await log.append(await log.acquire())
    subscriber = Subscriber(log.address)
    taking = asyncio.create_task(take(subscriber, 2))
    await eventually(lambda: subscriber.connected)
    assert subscriber.head_seq == 1
    heard = subscriber.last_progress
    await eventually(lambda: subscriber.last_progress > heard, "progress")
    assert subscriber.last_progress <= time.monotonic()
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert not subscriber.connected


async def test_service_restart_is_survived(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    async with running_log(settings) as log, Proxy(log.address) as link:
        subscriber, found = Subscriber(link.address), list[ChainedEntry]()
        epoch = await log.acquire()
        await log.append(epoch)
        taking = asyncio.create_task(take(subscriber, 3, found))
        await eventually(lambda: found)
        redis_server.restart()
        await History().append(log, epoch)
        await History().append(log, epoch)
        judge_order(await asyncio.wait_for(taking, PATIENCE))


async def test_draining_ends_streams_in_good_order(settings: LogSettings) -> None:
    async with running_log(settings) as log:
        await log.append(await log.acquire())
        stream = log.stub.Subscribe(pb.SubscribeRequest(from_seq=1))
        assert (await stream.read()).head_seq == 1
        assert log.task is not None
        log.task.cancel()
        while await stream.read() is not grpc.aio.EOF:
            pass
        assert await stream.code() is grpc.StatusCode.OK, "not cut off when the grace was over"
        await asyncio.wait((log.task,))


async def test_entries_of_another_service_arrive(
    log: RunningLog, redis_server: RedisServer, tmp_path: Path
) -> None:
    other_settings = log_settings(redis_server, tmp_path / "other" / "witness")
    async with running_log(other_settings) as other:
        taking = asyncio.create_task(take(Subscriber(other.address), 50))
        history, epoch = History(), await log.acquire()
        for _ in range(50):
            await history.append(log, epoch)
        judge_order(await asyncio.wait_for(taking, PATIENCE))


async def test_followers_at_the_head_share_one_read_of_redis(
    settings: LogSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await RedisLog.open(settings)
    feed = Feed(store, page_entries=10, progress_seconds=PATIENCE)
    tail = asyncio.create_task(feed.run())
    try:
        followers = [feed.follow(1) for _ in range(3)]
        assert [(await anext(each)).entries for each in followers] == [(), (), ()]
        reads, read = [], store.read_retained

        async def counted(*asked: int) -> Page:
            reads.append(asked)
            return await read(*asked)

        monkeypatch.setattr(store, "read_retained", counted)
        waiting = [asyncio.ensure_future(anext(each)) for each in followers]
        await store.append(new_entry(append_request(await store.acquire_epoch("test"))))
        pages = await asyncio.gather(*waiting)
        assert [[entry.seq for entry in page.entries] for page in pages] == [[1], [1], [1]]
        assert len(reads) == 1
    finally:
        feed.stop()
        await tail
        await store.close()


async def test_large_entries_come_in_bounded_messages(log: RunningLog) -> None:
    epoch = await log.acquire()
    await append(log, epoch, lane("lanes/main"))
    for _ in range(12):
        await log.append_large(epoch, 900_000)
    sizes = []
    async with aclosing(Subscriber(log.address).batches()) as batches:
        async for batch in batches:
            sizes.append(sum(len(entry.payload) for entry in batch.entries))
            if batch.position.seq == 13:
                break
    assert max(sizes) <= 1_000_000, "a message has one entry, or 256 KiB"
    assert len(await log.entries()) == 13


async def test_slow_reader_does_not_make_the_service_read_ahead(
    log: RunningLog, redis_server: RedisServer
) -> None:
    epoch = await log.acquire()
    await append(log, epoch, lane("lanes/main"))
    for _ in range(60):
        await log.append_large(epoch, 400_000)
    stream = log.stub.Subscribe(pb.SubscribeRequest(from_seq=1))
    first = await stream.read()
    calls = redis_server.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    # Nobody reads the stream now: the service may send what fits the windows, and no more.
    for _ in range(20):
        await log.head()
    more = redis_server.client.info("commandstats")["cmdstat_evalsha"]["calls"] - calls - 20
    assert more <= 60 / len(first.entries) / 2
    stream.cancel()


@pytest.mark.parametrize(
    ("from_seq", "code", "reason"),
    [
        (3, grpc.StatusCode.OUT_OF_RANGE, "SEQ_BEYOND_HEAD"),
        (0, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (-1, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ],
)
async def test_bad_from_seq_is_refused(
    log: RunningLog, from_seq: int, code: grpc.StatusCode, reason: str
) -> None:
    await log.append(await log.acquire())
    error = await stream_failure(log.stub.Subscribe(pb.SubscribeRequest(from_seq=from_seq)))
    assert (error.code, error.reason) == (code, reason)
    assert error.field == "from_seq"


async def fails(subscriber: Subscriber) -> ErrataError:
    with pytest.raises(ErrataError) as caught:
        await asyncio.wait_for(take(subscriber, 1_000_000), PATIENCE)
    return caught.value


async def test_positions_that_the_log_does_not_have_are_refused(
    log: RunningLog, redis_server: RedisServer
) -> None:
    history, epoch = History(), await log.acquire()
    for _ in range(5):
        await history.append(log, epoch)
    entries = await log.entries()
    here = Position(3, entries[2].chain_digest)
    assert [e.seq for e in await take(Subscriber(log.address, here), 5)] == [4, 5]
    beyond = Position(6, bytes(32))
    assert type(await fails(Subscriber(log.address, beyond))) is SeqBeyondHeadError
    forked = Position(3, bytes(32))
    assert type(await fails(Subscriber(log.address, forked))) is LogBehindWitnessError
    foreign = Subscriber(log.address, here, log_id="0" * 32)
    assert type(await fails(foreign)) is LogBehindWitnessError
    redis_server.client.xtrim("{errata}:stream", minid="4-0", approximate=False)
    error = await fails(Subscriber(log.address))
    assert type(error) is SeqTrimmedError
    assert error.metadata["floor_seq"] == "4"


async def test_damage_is_not_retried(log: RunningLog, redis_server: RedisServer) -> None:
    await log.append(await log.acquire())
    redis_server.client.flushall()
    assert type(await fails(Subscriber(log.address))) is LogBehindWitnessError


def history_of(num_entries: int) -> list[ChainedEntry]:
    position, entries = ORIGIN, []
    for index in range(num_entries):
        payload = f"entry {index}".encode()
        position = extend(position, payload)
        entries.append(ChainedEntry(position.seq, payload, position.chain_digest))
    return entries


class LyingService(edit_log_pb2_grpc.EditLogServiceServicer):
    """Sends what it is told, whatever was asked; then holds the stream open or ends it."""

    def __init__(self, messages: Sequence[Sequence[ChainedEntry]]) -> None:
        self.messages = messages

    async def Subscribe(self, request: Any, context: Any) -> AsyncIterator[pb.SubscribeResponse]:
        for entries in self.messages:
            yield pb.SubscribeResponse(
                entries=map(entry_to, entries), head_seq=100, log_id="a" * 32
            )


@asynccontextmanager
async def lying(messages: Sequence[Sequence[ChainedEntry]]) -> AsyncIterator[str]:
    server = grpc.aio.server()
    edit_log_pb2_grpc.add_EditLogServiceServicer_to_server(LyingService(messages), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


TRUE = history_of(6)
LIES: list[Callable[[], list[list[ChainedEntry]]]] = [
    lambda: [TRUE[1:]],
    lambda: [TRUE[:2], TRUE[3:]],
    lambda: [TRUE[:3], TRUE[2:]],
    lambda: [[TRUE[0], TRUE[2], TRUE[1]]],
    lambda: [[TRUE[0], ChainedEntry(2, b"forged", TRUE[1].chain_digest)]],
    lambda: [[TRUE[0], ChainedEntry(2, TRUE[1].payload, bytes(32))]],
]


@pytest.mark.parametrize("lie", LIES)
async def test_subscriber_believes_no_lie(lie: Callable[[], list[list[ChainedEntry]]]) -> None:
    found: list[ChainedEntry] = []
    async with lying(lie()) as address:
        with pytest.raises(LogBehindWitnessError):
            await asyncio.wait_for(take(Subscriber(address), 100, found), PATIENCE)
    judge_order(found)


async def test_progress_that_skips_entries_is_not_believed() -> None:
    async with lying([TRUE[:2], []]) as address:  # "all up to 100 was delivered"
        with pytest.raises(LogBehindWitnessError, match="entry 3 did not arrive"):
            await asyncio.wait_for(take(Subscriber(address), 100), PATIENCE)


@pytest.mark.parametrize("lie", LIES)
async def test_control_without_its_checks_the_subscriber_passes_lies_on(
    lie: Callable[[], list[list[ChainedEntry]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trusting(base: Position, entries: Sequence[ChainedEntry]) -> Position:
        return Position(entries[-1].seq, entries[-1].chain_digest)

    monkeypatch.setattr(subscriber_module, "verify_run", trusting)
    messages, found = lie(), list[ChainedEntry]()
    async with lying(messages) as address:
        await asyncio.wait_for(take(Subscriber(address), messages[-1][-1].seq, found), PATIENCE)
    with pytest.raises((AssertionError, LogBehindWitnessError)):
        judge_order(found)


async def test_batch_counts_when_the_next_is_asked_for(log: RunningLog) -> None:
    await log.append(await log.acquire())
    subscriber = Subscriber(log.address)
    await take(subscriber, 1)
    assert subscriber.position == ORIGIN, "the consumer may have failed on it"
    assert [entry.seq for entry in await take(subscriber, 1)] == [1]
