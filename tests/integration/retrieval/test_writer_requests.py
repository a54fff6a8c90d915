"""Requests to a writer that is busy, starting or shutting down, on a real log."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterable
from contextlib import suppress

import pytest

from errata.errors import EditNotRevertibleError, UnavailableError
from errata.writer.compaction import CompactionOptions
from errata.writer.ledger import State
from errata.writer.resources import WriterResources
from tests.integration.retrieval.stack import FACTS, LANE, Stack, submit
from tests.unit.editing import elder_models

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
