"""Counts what became of requests in the open canaries, and of the rest that they are compared with.

The counts travel with the replica's reports to the log, from where the writer reads them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing

import grpc

from errata.editing.canaries import Canaries
from errata.editing.namespaces import Reading
from errata.engine.sequence import Piece, ScoredContinuation
from errata.errors import ErrataError
from errata.log.canary_entries import CanaryComparison, CanaryCounts
from errata.platform.status import code_of

_FAULTS_OF_REQUESTS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
"""What says nothing about edits: refusals, a full queue, and deadlines, which callers choose."""
_MICRO = 1_000_000


class CanaryCounter:
    """The sums of one replica since it started; used by its event loop."""

    def __init__(self) -> None:
        """Has counted nothing."""
        self._sums: dict[str, CanaryComparison] = {}

    def report(self, canaries: Canaries) -> Mapping[str, CanaryComparison]:
        """The sums of the open canaries; forgets those that ended, whose names are never reused."""
        self._sums = {name: sums for name, sums in self._sums.items() if name in canaries.open}
        return dict(self._sums)

    async def generation(
        self,
        pieces: AsyncGenerator[Piece, None],
        asked: tuple[Reading, str],
        before: Canaries,
    ) -> AsyncGenerator[Piece, None]:
        """The pieces of a continuation, which is counted at its end; not if its caller leaves.

        Args:
            pieces: of the engine.
            asked: what the request reads, and its canary key.
            before: the canaries that were open when it came, for a request that fails.
        """
        start = time.perf_counter()
        last: Piece | None = None
        try:
            async with aclosing(pieces):
                async for last in pieces:
                    yield last
        except Exception as error:
            self._failed(error, asked, before, start)
            raise
        if last is not None:
            self._answered(last, last.num_tokens, asked, start)

    async def score(
        self,
        result: Awaitable[ScoredContinuation],
        asked: tuple[Reading, str],
        before: Canaries,
    ) -> ScoredContinuation:
        """The scores of a continuation, counted as `generation` counts."""
        start = time.perf_counter()
        try:
            scored = await result
        except Exception as error:
            self._failed(error, asked, before, start)
            raise
        self._answered(scored, len(scored.argmax_ids), asked, start)
        return scored

    def _answered(
        self,
        result: Piece | ScoredContinuation,
        num_tokens: int,
        asked: tuple[Reading, str],
        start: float,
    ) -> None:
        canaries = result.version.canaries
        if not canaries.open:
            return
        spent = int((time.perf_counter() - start) * _MICRO)
        own = {canaries.canary_of[edit] for edit in result.edits if edit in canaries.canary_of}
        for name, is_in in canaries.arms(*asked).items():
            claims, shaped = int(name in own), int(bool(result.edits))
            counts = CanaryCounts(1, claims, shaped, 0, num_tokens, spent)
            self._add(canaries, name, counts, is_in=is_in)

    def _failed(
        self, error: Exception, asked: tuple[Reading, str], canaries: Canaries, start: float
    ) -> None:
        if isinstance(error, ErrataError) and code_of(type(error)) in _FAULTS_OF_REQUESTS:
            return
        counts = CanaryCounts(
            requests=1, errors=1, microseconds=int((time.perf_counter() - start) * _MICRO)
        )
        for name, is_in in canaries.arms(*asked).items():
            self._add(canaries, name, counts, is_in=is_in)

    def _add(self, canaries: Canaries, name: str, counts: CanaryCounts, *, is_in: bool) -> None:
        opened_seq, none = canaries.open[name].opened_seq, CanaryCounts()
        arms = (counts, none) if is_in else (none, counts)
        sums = self._sums.get(name, CanaryComparison(opened_seq))
        self._sums[name] = sums + CanaryComparison(opened_seq, *arms)
