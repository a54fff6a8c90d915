"""Generates the choices of one answer, all from one state of the model.

Each choice is a generation of its own. A commit can arrive between them; then the choices of the
older positions are made again from the newest one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, cast

from errata.errors import DeadlineExceededError, UnavailableError
from errata.gateway.http.openai_convert import Answer, Asked, Piece, as_stream, from_position
from errata.platform.tracing import trace_parent

if TYPE_CHECKING:
    from errata.gateway.pool import WorkerPool  # loads Ray


T = TypeVar("T", Answer, Piece)
R = TypeVar("R")
_MAX_ROUNDS = 5
_EXTRA_SECONDS = 1.0  # so that a worker's own error, which says more, arrives first


async def whole(pool: WorkerPool, requests: Sequence[Asked], seconds: float) -> list[Answer]:
    """All answers, of one state.

    Args:
        pool: the workers.
        requests: one for each choice.
        seconds: until the client's deadline.

    Raises:
        ErrataError: of a worker or of the pool; DeadlineExceededError without an answer in time.
    """
    deadline = time.monotonic() + seconds

    async def ask(index: int, request: Asked) -> Answer:
        left = deadline - time.monotonic()
        return cast(Answer, await pool.call("generate", request, left, trace_parent()))

    async with _until(seconds):
        return await of_one_state(requests, ask)


class ChoiceStreams:
    """The choices of one answer as streams."""

    def __init__(self, pool: WorkerPool, requests: Sequence[Asked], seconds: float) -> None:
        """Prepares; `start` asks.

        Args:
            pool: the workers.
            requests: one for each choice.
            seconds: until the client's deadline.
        """
        self._pool = pool
        self._requests = requests
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._streams: dict[int, AsyncGenerator[Piece, None]] = {}
        self._readers: list[asyncio.Task[None]] = []
        self.firsts: list[Piece] = []

    async def start(self) -> None:
        """Waits for the first piece of each choice; all are of one state.

        Raises:
            ErrataError: as `whole`.
        """
        async with _until(self._seconds):
            self.firsts = await of_one_state(self._requests, self._first)

    async def _first(self, index: int, request: Asked) -> Piece:
        if index in self._streams:
            await self._streams.pop(index).aclose()
        left = self._deadline - time.monotonic()
        stream = self._pool.stream("stream_generate", as_stream(request), left)
        self._streams[index] = cast("AsyncGenerator[Piece, None]", stream)
        return await anext(self._streams[index])

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """All pieces as they come, with the numbers of their choices.

        Raises:
            ErrataError: a stream failed; the answer is incomplete.
        """
        for index, first in enumerate(self.firsts):
            yield index, first
        if len(self._streams) == 1:
            async for piece in self._until_deadline(self._streams[0]):
                yield 0, piece
            return
        queue: asyncio.Queue[tuple[int, Piece] | Exception | None] = asyncio.Queue(maxsize=64)
        self._readers = [
            asyncio.create_task(_read(index, self._until_deadline(stream), queue))
            for index, stream in self._streams.items()
        ]
        num_open = len(self._readers)
        while num_open:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield item

    async def _until_deadline(self, stream: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
        """The stream's pieces; a worker that hangs must not hang its reader."""
        while True:
            async with _until(self._deadline - time.monotonic()):
                piece = await anext(stream, None)
            if piece is None:
                return
            yield piece

    async def close(self) -> None:
        """Ends all generations that still run, which frees their rows."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for stream in self._streams.values():
            await stream.aclose()


async def _read(
    index: int,
    stream: AsyncIterator[Piece],
    queue: asyncio.Queue[tuple[int, Piece] | Exception | None],
) -> None:
    try:
        async for piece in stream:
            await queue.put((index, piece))
    except Exception as error:  # noqa: BLE001 the reader of the queue raises it
        await queue.put(error)
    else:
        await queue.put(None)


async def of_one_state(
    requests: Sequence[Asked], ask: Callable[[int, Asked], Awaitable[T]]
) -> list[T]:
    """Asks for all choices, and again for those that are of an older position than others.

    Raises:
        UnavailableError: each round met a new commit.
    """
    found: list[T] = await _all(ask(index, request) for index, request in enumerate(requests))
    for _ in range(_MAX_ROUNDS):
        newest = max(answer.provenance.applied_seq for answer in found)
        late = [i for i, answer in enumerate(found) if answer.provenance.applied_seq < newest]
        if not late:
            return found
        again: list[T] = await _all(ask(i, from_position(requests[i], newest)) for i in late)
        for index, answer in zip(late, again, strict=True):
            found[index] = answer
    raise UnavailableError(
        "edits kept arriving between the choices, which must be of one state; try again, or ask "
        "for fewer choices."
    )


async def _all(calls: Iterable[Awaitable[R]]) -> list[R]:
    """The results in order; if one call fails, the others are cancelled first."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _until(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds + _EXTRA_SECONDS):
            yield
    except TimeoutError as error:
        raise DeadlineExceededError(
            "no answer before the deadline; allow more time with the header X-Request-Timeout."
        ) from error
