"""What engines share that queue each request as a job and send its results to the caller."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator

from errata.engine.contract import ServingEngine
from errata.engine.job import Job, pieces_of, score_of
from errata.engine.sequence import (
    GenerationRequest,
    Piece,
    Request,
    ScoredContinuation,
    ScoringRequest,
)

_POLL_SECONDS = 0.02


class QueuedEngine(ServingEngine):
    """Generates and scores by jobs; a subclass queues and cancels them."""

    async def drain(self, seconds: float) -> None:
        """Waits until no request is running or waiting, at most `seconds`."""
        end = time.monotonic() + seconds
        while (self.num_waiting or self.num_running) and time.monotonic() < end:
            await asyncio.sleep(_POLL_SECONDS)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece, None]:
        """Yields the continuation; pieces that a slow reader has not read yet are joined.

        Raises:
            As the contract says.
        """
        job = self._enqueue(request)
        try:
            async for piece in pieces_of(job):
                yield piece
        finally:
            self._cancel(job)

    async def score(self, request: ScoringRequest) -> ScoredContinuation:
        """Scores a continuation.

        Raises:
            As `generate`.
        """
        job = self._enqueue(request)
        try:
            return await score_of(job)
        finally:
            self._cancel(job)

    @abstractmethod
    def _enqueue(self, request: Request) -> Job:
        """Queues a request, or raises why it is refused."""

    @abstractmethod
    def _cancel(self, job: Job) -> None:
        """Ends a job whose caller has left; one that has ended is left alone."""
