"""Compactions that clients asked for: each runs to its end, and its end is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from errata.errors import RequestIdReusedError, UnavailableError
from errata.writer.compaction import Compacted, Order

_log = structlog.get_logger(__name__)
_MOST_REMEMBERED = 32


@dataclass(frozen=True, slots=True)
class CompactionRequest:
    """What is asked for.

    Attributes:
        lane: such as `lanes/main`.
        order: how.
    """

    lane: str
    order: Order


_Outcome = tuple[int, Compacted]
_Compact = Callable[[str, CompactionRequest, str], Coroutine[Any, Any, _Outcome]]
"""(request id, what is asked for, author) → position of the commit, and what was measured."""


class CompactionRequests:
    """The newest ones by request id, running or ended; what was committed the log knows itself."""

    def __init__(self, compact: _Compact) -> None:
        """None yet.

        Args:
            compact: does it.
        """
        self._compact = compact
        self._known: dict[str, tuple[CompactionRequest, asyncio.Task[_Outcome]]] = {}

    async def outcome(
        self, request_id: str, asked: CompactionRequest, author: str, wait_seconds: float
    ) -> _Outcome:
        """Begins a compaction, or joins the one that has this id.

        Raises:
            RequestIdReusedError: the id was used for another one.
            UnavailableError: it takes longer than `wait_seconds`, and goes on.
            ErrataError: it came to nothing; the same id is told so again.
        """
        known = self._known.get(request_id)
        if known is not None and known[0] != asked:
            raise reused(request_id)
        task = known[1] if known is not None else self._begin(request_id, asked, author)
        done, _ = await asyncio.wait((task,), timeout=wait_seconds)
        if not done:
            raise UnavailableError(
                "the compaction is not done yet, and goes on; ask again with the same request id."
            )
        return task.result()

    def _begin(
        self, request_id: str, asked: CompactionRequest, author: str
    ) -> asyncio.Task[_Outcome]:
        task = asyncio.create_task(self._compact(request_id, asked, author))

        def note(task: asyncio.Task[_Outcome]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                _log.warning("a compaction came to nothing", lane=asked.lane, reason=str(error))
            if isinstance(error, UnavailableError):
                self._known.pop(request_id, None)  # asked again, it begins again

        task.add_done_callback(note)
        known = [*self._known.items(), (request_id, (asked, task))]
        self._known = dict(known[-_MOST_REMEMBERED:])
        return task


def reused(request_id: str) -> RequestIdReusedError:
    """The refusal of an id that belongs to another request."""
    return RequestIdReusedError(
        f"request id {request_id} was used for another request. Use a new one.",
        field="request_id",
    )
