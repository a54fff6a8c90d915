"""The log as it was at an earlier position: served, verified, and never changed."""

from __future__ import annotations

from typing import Any

import pytest

from errata.errors import LogBehindWitnessError, LogNotEmptyError, StartupError
from errata.log.subscriber import Subscriber
from errata.platform.settings import LogSettings
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from tests.integration.log.harness import (
    RedisServer,
    failure,
    running_log,
    smuggle,
)
from tests.integration.log.trimming import opened, store_of, take_snapshot, trimming
from tests.waiting import PATIENCE

NUM_ENTRIES = 7


async def written(settings: LogSettings) -> list[Any]:
    """A log of some entries; what it listed."""
    async with running_log(settings) as log:
        epoch = await log.acquire()
        for number in range(NUM_ENTRIES):
            await log.append(epoch, comment=str(number))
        return await log.entries()


def stored(server: RedisServer, settings: LogSettings) -> tuple[Any, ...]:
    """Everything that the log keeps."""
    client = server.client
    return (
        client.hgetall("{errata}:head"),
        client.hgetall("{errata}:requests"),
        client.xrange("{errata}:stream"),
        settings.witness_path.read_bytes(),
    )


def at(settings: LogSettings, seq: int) -> LogSettings:
    return settings.model_copy(update={"read_only_at": seq})


@pytest.mark.parametrize("seq", [1, 4, NUM_ENTRIES])
async def test_readers_see_the_log_as_it_was(
    redis_server: RedisServer, settings: LogSettings, seq: int
) -> None:
    entries = await written(settings)
    before = stored(redis_server, settings)
    async with running_log(at(settings, seq)) as log:
        head = await log.head()
        assert (head.head_seq, head.chain_digest) == (seq, entries[seq - 1].chain_digest)
        assert await log.entries() == entries[:seq]
        subscriber = Subscriber(log.address)
        async for batch in subscriber.batches():
            assert batch.entries == tuple(entries[:seq])
            break
        assert subscriber.head_seq == seq
        call = log.stub.Subscribe(pb.SubscribeRequest(from_seq=1), timeout=PATIENCE)
        deliveries = [await call.read() for _ in range(3)]
        call.cancel()
        assert [len(delivery.entries) for delivery in deliveries] == [seq, 0, 0]
        assert {delivery.head_seq for delivery in deliveries} == {seq}
        report = pb.ReplicaPosition(
            replica="r", applied_seq=seq, chain_digest=entries[seq - 1].chain_digest
        )
        answer = await log.stub.ReportPosition(pb.ReportPositionRequest(position=report))
        assert (answer.agrees, answer.head_seq) == (True, seq)
        beyond = await failure(log.stub.ListEntries(pb.ListEntriesRequest(from_seq=seq + 2)))
        assert beyond.reason == "SEQ_BEYOND_HEAD"
    assert stored(redis_server, settings) == before


async def test_changes_are_refused_and_leave_no_trace(
    redis_server: RedisServer, settings: LogSettings
) -> None:
    await written(settings)
    before = stored(redis_server, settings)
    async with running_log(at(settings, 3)) as log:
        for call in (log.acquire(), log.append(1, comment="more")):
            error = await failure(call)
            assert error.reason == "PRECONDITION_FAILED"
            assert "read only at 3" in error.message
            assert error.metadata["read_only_at"] == "3"
    assert stored(redis_server, settings) == before
    async with running_log(settings) as log:  # and the log goes on afterwards
        assert (await log.append(await log.acquire(), comment="more")).seq == NUM_ENTRIES + 1


async def test_a_position_beyond_the_head_is_refused(settings: LogSettings) -> None:
    await written(settings)
    with pytest.raises(StartupError, match=f"is {NUM_ENTRIES + 1}, but the log ends at"):
        async with running_log(at(settings, NUM_ENTRIES + 1)):
            pass


async def test_an_empty_redis_is_refused_and_stays_empty(
    redis_server: RedisServer, settings: LogSettings
) -> None:
    with pytest.raises(StartupError, match="holds no log"):
        async with running_log(at(settings, 1)):
            pass
    assert redis_server.client.dbsize() == 0


async def test_without_a_witness_nothing_is_shown(settings: LogSettings) -> None:
    await written(settings)
    settings.witness_path.unlink()
    with pytest.raises(LogNotEmptyError):
        async with running_log(at(settings, 1)):
            pass


@pytest.mark.parametrize("changed", [2, 5])
async def test_a_change_before_or_after_the_position_is_noticed(
    redis_server: RedisServer, settings: LogSettings, changed: int
) -> None:
    await written(settings)
    client = redis_server.client
    rows = client.xrange("{errata}:stream")
    client.delete("{errata}:stream")
    for number, (name, fields) in enumerate(rows, start=1):
        if number == changed:
            fields[b"payload"] += b"\0"
        client.xadd("{errata}:stream", fields, id=name)
    with pytest.raises(LogBehindWitnessError):
        async with running_log(at(settings, 3)):
            pass


async def test_an_entry_that_is_voided_later_counts_as_voided(
    redis_server: RedisServer, settings: LogSettings
) -> None:
    """Otherwise no reader could pass it, and the system would show an even earlier position."""
    await written(settings)
    bad = smuggle(redis_server, b"\xff not an entry")
    async with running_log(settings) as log:
        kind = pb.EntryVoided(seq=bad, reason="a test")
        request = pb.AppendRequest(
            request_id="6f0ed5f2-4f0c-5c39-9d4f-1f3a5f0c7a12",
            epoch=await log.acquire(),
            payload=pb.EntryPayload(author="tests", entry_voided=kind),
        )
        await log.stub.Append(request, timeout=PATIENCE)
    async with running_log(at(settings, bad)) as log:
        head = await log.head()
        assert (head.head_seq, list(head.voided_seqs)) == (bad, [bad])
        assert not head.impossible_entries
    async with running_log(at(settings, bad - 1)) as log:
        assert not (await log.head()).voided_seqs


@pytest.mark.parametrize("seq", [3, NUM_ENTRIES])
async def test_a_trimmed_log_is_shown_from_its_archive(settings: LogSettings, seq: int) -> None:
    """From entry 1 on: no reader may begin with a snapshot of a later position."""
    entries = await written(settings)
    store = store_of(settings)
    async with opened(trimming(settings)) as (log, trimmer):
        await take_snapshot(log, await log.acquire_epoch("test"), store, 5)
        await trimmer.step()
        assert trimmer.floor_seq == 6
    async with running_log(at(settings, seq), store) as shown:
        head = await shown.head()
        assert head.head_seq == seq
        assert not head.HasField("newest_snapshot")
        assert await shown.entries() == entries[:seq]
        async for batch in Subscriber(shown.address).batches():
            assert batch.entries == tuple(entries[: len(batch.entries)])
            break
