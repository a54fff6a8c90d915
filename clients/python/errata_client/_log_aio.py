"""What the log says, for the asynchronous client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from errata_client import _calls, types
from errata_client._calls import Call, Page

T = TypeVar("T")


class AsyncLogCalls(ABC):
    """What `AsyncClient` offers to look at the log and at those who follow it."""

    @abstractmethod
    async def _call(self, call: Call[T], timeout: float | None) -> T: ...

    @abstractmethod
    def _pages(
        self, page: Callable[[str], Call[Page[T]]], timeout: float | None
    ) -> AsyncIterator[T]: ...

    async def head(self, *, timeout: float | None = None) -> types.Head:
        """The log's last acknowledged position."""
        return await self._call(_calls.get_head(), timeout)

    def entries(
        self, from_seq: int = 1, *, timeout: float | None = None
    ) -> AsyncIterator[types.LogEntry]:
        """The log's entries in order, up to the head."""
        return self._pages(lambda token: _calls.list_entries(from_seq, token), timeout)

    async def replicas(self, *, timeout: float | None = None) -> list[types.Replica]:
        """Positions and states of the replicas."""
        return [replica async for replica in self._pages(_calls.list_replicas, timeout)]
