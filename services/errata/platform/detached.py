"""Work that continues after its caller has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class StillRunningError(Exception):
    """The work did not end in time; it continues."""


class Detached:
    """Runs coroutines to their end, even if their callers are cancelled or stop waiting.

    An exception that no caller is waiting for is dropped: log it inside the work if it matters.
    """

    def __init__(self) -> None:
        # The event loop itself holds only weak references to tasks.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._by_key: dict[Hashable, asyncio.Task[Any]] = {}

    def start(
        self, work: Callable[[], Coroutine[Any, Any, T]], *, key: Hashable = None
    ) -> asyncio.Task[T]:
        """Starts `work`, or joins the running work that has the same key.

        Args:
            work: makes the coroutine; not called if running work is joined.
            key: identifies equal work while it runs; None never joins.

        Returns:
            The task; cancel it only to end the work for every caller.
        """
        if key is not None and key in self._by_key:
            return self._by_key[key]
        task = asyncio.create_task(work())
        self._tasks.add(task)
        if key is not None:
            self._by_key[key] = task

        def ended(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if key is not None:
                del self._by_key[key]
            if not task.cancelled():
                task.exception()  # marks it as retrieved, for the caller may have left

        task.add_done_callback(ended)
        return task

    async def run(
        self,
        work: Callable[[], Coroutine[Any, Any, T]],
        *,
        key: Hashable = None,
        timeout_seconds: float | None = None,
    ) -> T:
        """Starts or joins `work`, as `start`, and waits for its result.

        Args:
            work: as for `start`.
            key: as for `start`.
            timeout_seconds: limits the wait, not the work; None waits until the end.

        Raises:
            StillRunningError: the work did not end within `timeout_seconds`.
        """
        return await result_within(self.start(work, key=key), timeout_seconds)

    async def drain(self) -> None:
        """Waits until no work is running, including work that starts meanwhile."""
        while self._tasks:
            await asyncio.wait(self._tasks)


async def result_within(task: asyncio.Task[T], timeout_seconds: float | None) -> T:
    """The result of a task, which continues if the caller is cancelled or the time is up.

    Raises:
        StillRunningError: the task did not end within `timeout_seconds`.
    """
    done, _ = await asyncio.wait((task,), timeout=timeout_seconds)
    if not done:
        raise StillRunningError
    return task.result()
