"""Edits that begin and end at a time, on a real log, under a clock that the test sets."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from errata.errors import InvalidEditError
from errata.log.chain import ChainedEntry, Position
from errata.log.entries import Schedule, Verdict
from errata.log.restore import restoring
from errata.log.signing.keys import SigningKey
from errata.writer.intake import Draft
from errata.writer.record import State
from errata.writer.signing import WriterKeys
from errata.writer.writer import Writer
from errata_client._gen.errata.v1 import edit_log_pb2
from tests.integration.log.harness import RedisServer, connected, log_settings, running_log
from tests.integration.retrieval.stack import FACTS, LANE, Stack, answer_of
from tests.integration.retrieval.test_snapshots import SNAPSHOTS, snapshot_after
from tests.waiting import PATIENCE

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
PROMPT = FACTS[0][0]


class Clock:
    """Says what the test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def timed(
    writer: Writer, begin: timedelta | None, end: timedelta | None, number: int = 0, id: str = ""
) -> str:
    times = Schedule(*(None if each is None else NOW + each for each in (begin, end)))
    draft = Draft(*FACTS[number], "", (), (), "", times=times)
    _, (record,) = await writer.submit(id or str(uuid.uuid4()), [draft], LANE, "ann")
    return record.edit.name


async def reached(writer: Writer, name: str, state: State) -> None:
    async with asyncio.timeout(PATIENCE):
        await writer.ledger.wait_until(lambda: writer.ledger.get(name).state is state)


async def looked_again(writer: Writer) -> None:
    """The writer has looked at its clock."""
    await writer._timetable.act()


@asynccontextmanager
async def writing(stack: Stack, clock: Clock, **more: object) -> AsyncIterator[Writer]:
    async with stack.writer(stack.lane_model(), clock=clock, **more) as writer:  # type: ignore[arg-type]
        yield writer


async def entries_of(stack: Stack) -> list[ChainedEntry]:
    async with connected(stack.address) as log:
        return await log.entries()


def content(entry: ChainedEntry) -> edit_log_pb2.EntryPayload:
    return edit_log_pb2.EntryPayload.FromString(entry.payload)


@pytest.mark.promise("P7")
async def test_an_edit_begins_and_ends_at_its_times_on_every_replica(
    stack: Stack, clock: Clock
) -> None:
    async with writing(stack, clock) as writer, stack.worker() as worker:
        name = await timed(writer, HOUR, 2 * HOUR)
        assert writer.ledger.get(name).state is State.SCHEDULED
        assert (await answer_of(worker, PROMPT, writer.ledger.seq))[1] == ()

        clock.now += HOUR
        await reached(writer, name, State.COMMITTED)
        seq = writer.ledger.get(name).commit_seq
        assert (await answer_of(worker, PROMPT, seq))[1] == (name,)

        clock.now += HOUR
        await reached(writer, name, State.REVERTED)
        seq = writer.ledger.get(name).revert_seq
        assert (await answer_of(worker, PROMPT, seq))[1] == ()
    reversal = content((await entries_of(stack))[seq - 1])
    assert (reversal.edits_reverted.comment, reversal.author) == ("expired", "errata-writer")


async def test_a_time_that_cannot_be_is_refused(stack: Stack, clock: Clock) -> None:
    async with writing(stack, clock) as writer:
        head = writer.ledger.seq
        for begin, end, said in (
            (None, -HOUR, "has passed: the writer's clock says 2026-01-01"),
            (None, timedelta(), "has passed"),
            (2 * HOUR, HOUR, "not after effective_from"),
        ):
            with pytest.raises(InvalidEditError, match=said) as refused:
                await timed(writer, begin, end)
            assert refused.value.field == "edits[0].expires_at"
        assert writer.ledger.seq == head
        past = await timed(writer, -HOUR, None)
        await reached(writer, past, State.COMMITTED)


async def test_a_retry_after_the_end_is_no_new_edit(stack: Stack, clock: Clock) -> None:
    async with writing(stack, clock) as writer:
        same = str(uuid.uuid4())
        name = await timed(writer, None, HOUR, id=same)
        await reached(writer, name, State.COMMITTED)
        clock.now += HOUR
        await reached(writer, name, State.REVERTED)
        head = writer.ledger.seq
        assert await timed(writer, None, HOUR, id=same) == name
        assert writer.ledger.seq == head


async def test_what_ends_before_its_commit_is_rejected(stack: Stack, clock: Clock) -> None:
    async with writing(stack, clock, requires_approval=True) as writer:
        proposed = await timed(writer, None, HOUR)
        scheduled = await timed(writer, 2 * HOUR, 3 * HOUR, 1)
        await approve(writer, scheduled)
        assert writer.ledger.get(scheduled).state is State.SCHEDULED
        clock.now += 3 * HOUR
        for name, was in ((proposed, "proposed"), (scheduled, "scheduled")):
            await reached(writer, name, State.REJECTED)
            error = writer.ledger.get(name).error
            assert error is not None
            assert f"it was {was}" in error.message
        kinds = [content(entry).WhichOneof("kind") for entry in await entries_of(stack)]
        assert "edits_released" not in kinds, "what has ended does not begin"


async def approve(writer: Writer, name: str) -> None:
    await writer.reviews.decide(str(uuid.uuid4()), [name], Verdict.APPROVED, "", "eve", PATIENCE)


async def test_an_approval_after_the_begin_lets_it_begin_at_once(
    stack: Stack, clock: Clock
) -> None:
    async with writing(stack, clock, requires_approval=True) as writer:
        name = await timed(writer, HOUR, None)
        clock.now += 2 * HOUR
        await looked_again(writer)
        assert writer.ledger.get(name).state is State.PROPOSED
        await approve(writer, name)
        await reached(writer, name, State.COMMITTED)


async def test_a_new_writer_appends_what_was_due_before_it_serves(
    stack: Stack, clock: Clock
) -> None:
    """Signed, and from a snapshot: its ledger knows the times."""
    kept = {"keys": WriterKeys(SigningKey.generate()), "limits": SNAPSHOTS}
    async with stack.worker():
        async with writing(stack, clock, **kept) as writer:
            ends, begins = await timed(writer, None, HOUR), await timed(writer, HOUR, None, 1)
            later = await timed(writer, 3 * HOUR, None, 2)
            await reached(writer, ends, State.COMMITTED)
            await snapshot_after(stack, writer.ledger.get(ends).commit_seq)
        clock.now += 2 * HOUR  # nobody writes meanwhile
        async with writing(stack, clock, **kept) as writer:
            assert writer._edited.begun_from_seq, "control: it starts from the snapshot"
            assert writer.ledger.get(ends).state is State.REVERTED
            assert writer.ledger.get(begins).state is not State.SCHEDULED
            assert writer.ledger.get(later).state is State.SCHEDULED
            await reached(writer, begins, State.COMMITTED)


async def test_a_clock_that_jumps(stack: Stack, clock: Clock) -> None:
    """Forward, all that it passes over happens at once; back, nothing is undone or repeated."""
    async with writing(stack, clock) as writer:
        first, second = await timed(writer, HOUR, 5 * HOUR), await timed(writer, 2 * HOUR, None, 1)
        far = await timed(writer, 300 * HOUR, None, 2)
        clock.now += 24 * HOUR
        await reached(writer, first, State.REJECTED)  # its end has passed, too
        await reached(writer, second, State.COMMITTED)
        clock.now -= 48 * HOUR
        head = writer.ledger.seq
        await looked_again(writer)
        assert writer.ledger.get(second).state is State.COMMITTED
        assert writer.ledger.seq == head
        clock.now = NOW + 300 * HOUR
        await reached(writer, far, State.COMMITTED)


async def test_a_restored_log_keeps_its_schedules(
    stack: Stack, clock: Clock, tmp_path: Path
) -> None:
    async with writing(stack, clock) as writer:
        ends, begins = await timed(writer, None, HOUR), await timed(writer, HOUR, None, 1)
        await reached(writer, ends, State.COMMITTED)
    copied = await entries_of(stack)
    redis = RedisServer(tmp_path / "other")
    redis.start()
    settings = log_settings(redis, tmp_path / "other" / "witness")
    try:
        async with restoring(settings) as new:
            await new.announce(Position(len(copied), copied[-1].chain_digest), 1)
            await new.add(copied)
            await new.finish()
        clock.now += HOUR
        async with running_log(settings, stack.store) as log:
            other = Stack(log.address, tmp_path, redis)
            async with writing(other, clock) as writer:
                await reached(writer, ends, State.REVERTED)
                await reached(writer, begins, State.COMMITTED)
    finally:
        redis.close()


async def test_a_scheduled_edit_can_be_withdrawn(stack: Stack, clock: Clock) -> None:
    async with writing(stack, clock) as writer:
        name = await timed(writer, HOUR, None)
        await writer.reviews.decide(
            str(uuid.uuid4()), [name], Verdict.WITHDRAWN, "", "ann", PATIENCE
        )
        clock.now += HOUR
        await looked_again(writer)
        assert writer.ledger.get(name).state is State.WITHDRAWN
