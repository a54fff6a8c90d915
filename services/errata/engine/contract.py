"""The contract of an engine: what a replica needs of whatever generates and scores.

`engine.py` is the embedded engine; integrations bring others, as `worker/engines.py` finds them.
All of them pass `tests/engines/contract`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from errata.engine.sequence import (
    GenerationRequest,
    Piece,
    ScoredContinuation,
    ScoringRequest,
    Version,
)
from errata.engine.serving_state import ServingState
from errata.engine.statistics import Statistics

Swap = Callable[[], ServingState]
"""Puts a prepared change into the model and returns the new serving state."""


class ServingEngine(Protocol):
    """Generation and scoring under one serving state after another.

    An answer is computed under one state from its first to its last token (P6): its weights, its
    plan and its version are those of the state that the request was admitted under.
    """

    @property
    def version(self) -> Version:
        """New requests are admitted under this version."""

    @property
    def alive(self) -> bool:
        """Whether the engine works, now or once it is started."""

    @property
    def num_running(self) -> int:
        """Generations that have a row."""

    @property
    def num_waiting(self) -> int:
        """Requests without a row."""

    @property
    def statistics(self) -> Statistics:
        """Sums since the start."""

    @property
    def cache_usage(self) -> float:
        """Cache in use, as a fraction (0 to 1) of what there is."""

    async def start(self) -> None:
        """Starts; requests are served from then on."""

    async def close(self) -> None:
        """Stops; unfinished requests fail with UnavailableError."""

    async def drain(self, seconds: float) -> None:
        """Waits until no request is running or waiting, at most `seconds`."""

    async def change(self, swap: Swap, *, alters_weights: bool) -> None:
        """Runs `swap` at a point between two steps; returns when new requests get the new state.

        Args:
            swap: puts a prepared change into the model and returns the new serving state. If it
                raises, the serving state stays as it was.
            alters_weights: whether it changes down projections, which every row reads.

        Raises:
            UnavailableError: the engine was closed.
        """

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece, None]:
        """Yields the continuation; pieces that a slow reader has not read yet are joined.

        Raises:
            InvalidRequestError: prompt and `max_tokens` exceed the longest sequence.
            QueueFullError: too many requests are waiting.
            DeadlineExceededError: the deadline passed in the queue or in the batch.
            UnavailableError: the engine was closed, or a stream outlived its weights.
        """

    async def score(self, request: ScoringRequest) -> ScoredContinuation:
        """Scores a continuation.

        Raises:
            As `generate`.
        """
