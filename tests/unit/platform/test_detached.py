"""Work that continues after its caller has left."""

import asyncio
import gc
from typing import Any

import pytest

from errata.platform.detached import Detached, StillRunningError


class _Work:
    """Ends once `go` is set, and counts how often it began and ended."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.ended = 0, 0
        self.go = asyncio.Event()
        self._error = error

    async def __call__(self) -> str:
        self.begun += 1
        await self.go.wait()
        self.ended += 1
        if self._error is not None:
            raise self._error
        return "done"


async def test_work_ends_although_its_caller_is_cancelled() -> None:
    detached, work = Detached(), _Work()
    caller = asyncio.create_task(detached.run(work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gc.collect()
    work.go.set()
    await detached.drain()
    assert (work.begun, work.ended) == (1, 1)


async def test_work_ends_although_its_caller_waits_no_longer() -> None:
    detached, work = Detached(), _Work()
    with pytest.raises(StillRunningError):
        await detached.run(work, timeout_seconds=0.0)
    work.go.set()
    await detached.drain()
    assert work.ended == 1


async def test_a_timeout_of_the_work_itself_is_not_a_timeout_of_the_wait() -> None:
    detached, work = Detached(), _Work(TimeoutError())
    work.go.set()
    with pytest.raises(TimeoutError):
        await detached.run(work, timeout_seconds=60.0)


async def test_equal_keys_share_running_work_and_no_other_work_is_shared() -> None:
    detached, work = Detached(), _Work()
    callers = [asyncio.create_task(detached.run(work, key="a")) for _ in range(3)]
    callers.append(asyncio.create_task(detached.run(work, key="b")))
    callers += [asyncio.create_task(detached.run(work)) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert work.begun == 4
    work.go.set()
    assert await asyncio.gather(*callers) == ["done"] * 6
    assert await detached.run(work, key="a") == "done"
    assert work.begun == 5, "a key is free again once its work has ended"


async def test_a_failure_reaches_every_caller_and_is_dropped_without_one() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    detached, work = Detached(), _Work(ValueError("failed"))
    callers = [asyncio.create_task(detached.run(work, key="a")) for _ in range(2)]
    detached.start(work)
    await asyncio.sleep(0)
    work.go.set()
    for caller in callers:
        with pytest.raises(ValueError, match="failed"):
            await caller
    await detached.drain()
    del callers, caller
    gc.collect()
    assert complaints == [], "an exception was never retrieved"


async def test_a_drain_waits_for_work_that_starts_meanwhile() -> None:
    detached, first, second = Detached(), _Work(), _Work()

    async def starts_another() -> None:
        await first()
        detached.start(second)

    detached.start(starts_another)
    drain = asyncio.create_task(detached.drain())
    await asyncio.sleep(0)
    first.go.set()
    while not second.begun:
        await asyncio.sleep(0)
    assert not drain.done()
    second.go.set()
    await drain
    assert second.ended == 1
