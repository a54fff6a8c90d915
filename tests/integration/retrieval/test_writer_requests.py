"""Requests to a writer that is busy, starting or shutting down, on a real log."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar

import pytest

from errata.errors import EditNotRevertibleError, InvalidEditError, UnavailableError
from errata.platform.server import GrpcServer, open_channel
from errata.writer.compaction import CompactionOptions
from errata.writer.intake import Draft
from errata.writer.record import State
from errata.writer.resources import WriterResources
from errata.writer.service import EditingService
from errata_client._gen.errata.v1 import editing_pb2, editing_pb2_grpc
from tests.integration.log.harness import failure
from tests.integration.retrieval.stack import FACTS, LANE, Stack, submit
from tests.unit.editing import elder_models
from tests.waiting import PATIENCE

ELDER = {**elder_models.SMALL.model_dump(mode="json"), "steps": 1}


def _request() -> str:
    return str(uuid.uuid4())


async def test_a_retry_joins_the_revert_that_is_running(stack: Stack) -> None:
    """Or a writer that is in a fit would revert the edit once for each try."""
    async with stack.writer(stack.lane_model()) as writer:
        names, _ = await submit(writer, FACTS[0])
        head, request = writer.ledger.seq, _request()
        async with writer._edited.exclusive():  # as a fit does
            with pytest.raises(UnavailableError, match="retry with the same request id"):
                await writer.revert(request, names, "", "test", 0.0)
            retry = asyncio.create_task(writer.revert(request, names, "", "test", 60.0))
            await asyncio.sleep(0)
        seq, meanings = await retry
        assert (seq, writer.ledger.seq) == (head + 1, head + 1), "one entry"
        assert await writer.revert(request, names, "", "test", 60.0) == (seq, meanings)
        assert writer.ledger.seq == head + 1
        with pytest.raises(EditNotRevertibleError):
            await writer.revert(_request(), names, "", "test", 60.0)


async def test_a_revert_ends_although_its_caller_leaves(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        names, _ = await submit(writer, FACTS[0])
        async with writer._edited.exclusive():
            caller = asyncio.create_task(writer.revert(_request(), names, "", "test", 60.0))
            await asyncio.sleep(0)
            caller.cancel()
            with suppress(asyncio.CancelledError):
                await caller
        await writer.drain(60.0)
        assert writer.ledger.get(names[0]).state is State.REVERTED


class _SlowText(WriterResources):
    """Text that is read only after a while, so that a writer is long in its start-up."""

    may_read = threading.Event()

    def text(self) -> Iterable[str]:
        self.may_read.wait()
        return super().text()


async def test_the_model_has_its_base_weights_until_statistics_are_gathered(stack: Stack) -> None:
    """A revert or a compaction during start-up once applied the log beside the statistics."""
    async with stack.writer(None, "elder", config=ELDER) as writer:
        names, _ = await submit(writer, *FACTS)
    resources = _SlowText(None, stack.folder)
    async with stack.writer(None, "elder", config=ELDER, resources=resources) as writer:
        try:
            _, meanings = await writer.revert(_request(), names[:1], "", "test", 60.0)
            assert len(meanings) == 1, "what depended on it cannot be checked yet"
            compaction = _request(), LANE, CompactionOptions(), "test"
            with pytest.raises(UnavailableError, match="still running"):
                await writer.compact(*compaction, 0.01)
            assert not writer._applier.lanes, "nothing was applied"
            writer._edited.close()
            with pytest.raises(UnavailableError, match="shutting down"):
                await writer.compact(*compaction, 60.0)
            assert not writer._applier.lanes
        finally:
            resources.may_read.set()


class _Noting(str):
    """A text that notes which thread reads it."""

    readers: ClassVar[set[int]] = set()

    def strip(self, *_: object) -> str:
        self.readers.add(threading.get_ident())
        return ""


async def test_edits_are_read_outside_of_the_event_loop(stack: Stack) -> None:
    """A long text must not hold up those who only ask for a state."""
    async with stack.writer(stack.lane_model()) as writer:
        draft = Draft(_Noting("a"), "b", "", (), (), "")
        with pytest.raises(InvalidEditError, match="empty"):
            await writer.submit(_request(), [draft], LANE, "test")
    assert _Noting.readers
    assert threading.get_ident() not in _Noting.readers


async def test_a_compaction_that_waits_for_edits_ends_with_the_writer(stack: Stack) -> None:
    """The edits that it lets go first are not fitted any more."""
    async with stack.writer(None, "elder", config=ELDER, others=("one",)) as writer:
        await submit(writer, FACTS[0], lane="lanes/one")
        async with writer._edited.exclusive():  # as a fit does
            draft = Draft(*FACTS[1], "", (), (), "")
            await writer.submit(_request(), [draft], LANE, "test")
            waiting = asyncio.create_task(
                writer.compact(_request(), "lanes/one", CompactionOptions(), "test", PATIENCE)
            )
            await asyncio.wait((waiting,), timeout=0.01)
            draining = asyncio.create_task(writer.drain(PATIENCE))
            await asyncio.wait((draining,), timeout=0.01)
        with pytest.raises(UnavailableError, match="shutting down"):
            await waiting
        await draining


async def test_an_answer_that_no_message_can_carry_is_refused(stack: Stack) -> None:
    """A wait for a million names took 2.1 GB in the writer."""
    async with stack.writer(stack.lane_model()) as writer:
        draft = Draft(*FACTS[0], "", (), (), "線" * 4_000)
        _, (record,) = await writer.submit(_request(), [draft], LANE, "test")
        server = GrpcServer("127.0.0.1:0", [])
        editing_pb2_grpc.add_EditingServiceServicer_to_server(
            EditingService(writer, LANE), server.server
        )
        await server.start()
        async with open_channel(f"127.0.0.1:{server.port}") as channel:
            stub = editing_pb2_grpc.EditingServiceStub(channel)

            async def asked(number: int) -> Any:
                request = editing_pb2.WaitEditsRequest(names=[record.edit.name] * number)
                return await stub.WaitEdits(request, timeout=PATIENCE)

            few = await asked(2)
            assert (len(few.edits), few.all_settled) == (2, True)
            for number, limit in ((1_000, "8388608"), (1_001, "1000")):
                error = await failure(asked(number))
                assert (error.reason, error.field) == ("LIMIT_EXCEEDED", "names")
                assert error.metadata["limit"] == limit
        await server.stop(0)
