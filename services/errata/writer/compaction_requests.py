"""Compactions that clients asked for: each runs to its end, and its outcome is remembered.

A lane has one at a time, waiting or running. They take turns, and each lets the edits of other
lanes go first that were pending when its turn came: an edit waits for one running compaction.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

import structlog

from errata.errors import (
    PreconditionError,
    QueueFullError,
    RequestIdReusedError,
    UnavailableError,
    UnknownLaneError,
)
from errata.log.entries import LaneCompacted
from errata.platform.detached import Detached, StillRunningError, result_within
from errata.platform.failpoints import failpoint_async
from errata.writer.compaction import Compacted, CompactionOptions, compact
from errata.writer.edited_model import EditedModel
from errata.writer.intake import check_request_id
from errata.writer.publish import Publisher

_log = structlog.get_logger(__name__)
_MAX_REMEMBERED = 32
_RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked for.

    Attributes:
        lane: such as `lanes/main`.
        order: how.
    """

    lane: str
    order: CompactionOptions


_Outcome = tuple[int, Compacted]
"""The position of the commit, and what was measured."""


class CompactionRequests:
    """Compacts lanes.

    The outcomes of the newest requests are kept by request id, so that a caller who left early
    can ask again. The log shows which older requests were committed.
    """

    def __init__(self, edited: EditedModel, publisher: Publisher, detached: Detached) -> None:
        """Compacts nothing yet.

        Args:
            edited: the writer's model and ledger.
            publisher: appends to the log.
            detached: runs the compactions.
        """
        self._edited = edited
        self._publisher = publisher
        self._detached = detached
        self._newest: dict[str, tuple[_Request, asyncio.Task[_Outcome]]] = {}
        self._unfinished: set[str] = set()  # lanes
        self._turn = asyncio.Lock()

    async def compact(
        self, request_id: str, name: str, order: CompactionOptions, author: str, wait_seconds: float
    ) -> tuple[int, Compacted | None]:
        """Retrains a lane from its active edits; see `Writer.compact`."""
        request_id = check_request_id(request_id)
        ledger = self._edited.ledger
        if name not in ledger.lanes:
            raise UnknownLaneError(f"there is no lane {name!r}.", field="lane", lane=name)
        known_seq = ledger.seq_of_request(request_id)
        if known_seq is not None:
            if ledger.compacted_lane(known_seq) != name:
                raise _reused(request_id)
            return known_seq, None
        task = self._started(request_id, _Request(name, order), author)
        try:
            return await result_within(task, wait_seconds)
        except StillRunningError as error:
            raise UnavailableError(
                "the compaction is still running; retry with the same request id."
            ) from error

    def _started(self, request_id: str, request: _Request, author: str) -> asyncio.Task[_Outcome]:
        """The task of this request, running or ended."""
        known = self._newest.get(request_id)
        if known is not None:
            if known[0] != request:
                raise _reused(request_id)
            return known[1]
        if request.lane in self._unfinished:
            raise QueueFullError(
                f"{request.lane} is being compacted, or will be; wait until that is done.",
                field="lane",
                retry_after_seconds=_RETRY_SECONDS,
                lane=request.lane,
            )
        self._unfinished.add(request.lane)
        task = self._detached.start(partial(self._run, request_id, request, author))
        newest = [*self._newest.items(), (request_id, (request, task))]
        self._newest = dict(newest[-_MAX_REMEMBERED:])
        return task

    async def _run(self, request_id: str, request: _Request, author: str) -> _Outcome:
        try:
            return await self._compact(request_id, request, author)
        except Exception as error:
            _log.warning("compaction failed", lane=request.lane, reason=str(error))
            if isinstance(error, UnavailableError):
                self._newest.pop(request_id, None)  # a retry starts it again
            raise
        finally:
            self._unfinished.discard(request.lane)

    async def _compact(self, request_id: str, request: _Request, author: str) -> _Outcome:
        name, edited = request.lane, self._edited
        await edited.wait_until_begun()
        async with self._turn:
            await self._until_edits_are_done(name)
            return await self._compact_alone(request_id, request, author)

    async def _until_edits_are_done(self, name: str) -> None:
        """Waits for the edits of other lanes that are pending now; later ones wait themselves."""
        ledger, edited = self._edited.ledger, self._edited
        waiting = set(ledger.pending_elsewhere(name))
        await ledger.wait_until(
            lambda: edited.is_closing or waiting.isdisjoint(ledger.pending_elsewhere(name))
        )

    async def _compact_alone(self, request_id: str, request: _Request, author: str) -> _Outcome:
        name, edited = request.lane, self._edited
        async with edited.exclusive():
            if edited.is_closing:
                raise UnavailableError("the writer is shutting down; try again.")
            await edited.apply_all()
            if name not in edited.lanes:
                raise PreconditionError(
                    f"{name} could not be opened; the writer's log says why.", lane=name
                )
            made = await asyncio.to_thread(
                compact,
                edited.model,
                edited.lanes[name],
                edited.ledger.active_edits(name),
                request.order,
            )
            await failpoint_async("writer.compact.before_store")
            payload = LaneCompacted(
                name,
                made.edits,
                await self._publisher.store(made.artifact),
                made.seed,
                self._publisher.base_model_digest,
            )
            seq = await self._publisher.append_with_retry(request_id, payload, author)
            await failpoint_async("writer.compact.after_append")
            await edited.apply_all()
            return seq, made


def _reused(request_id: str) -> RequestIdReusedError:
    return RequestIdReusedError(
        f"request id {request_id} was used for another request. Use a new one.",
        field="request_id",
    )
