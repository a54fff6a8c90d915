"""A lane that gathers edits looks again as soon as the log goes on."""

from __future__ import annotations

import asyncio

from tests.integration.retrieval.stack import FACTS, Stack, submit
from tests.integration.retrieval.test_compaction import CONFIGS
from tests.waiting import PATIENCE


async def test_a_window_that_fills_up_waits_no_longer(stack: Stack) -> None:
    config = {**CONFIGS["lemoe"], "expert_edits": 2, "max_wait_seconds": 10 * PATIENCE}
    async with stack.writer(None, "lemoe", config=config) as writer, asyncio.timeout(PATIENCE):
        first = asyncio.create_task(submit(writer, FACTS[0]))
        await writer.ledger.wait_until(lambda: writer.ledger.num_pending == 1)
        await asyncio.sleep(1.0)  # the writer has looked, and gathers
        assert not first.done()
        (_, one), (_, other) = await asyncio.gather(first, submit(writer, FACTS[1]))
        assert one == other, "they share a commit"
