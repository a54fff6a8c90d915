"""A request inside the engine, and the way back to the event loop that waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from errata.engine.sequence import GenerationRequest, Routed, ScoringRequest, ServingState


@dataclass(eq=False, slots=True)
class Job:
    """A request and where its results go.

    Attributes:
        request: what is asked.
        loop: of whoever waits.
        asked: `time.monotonic()` of its arrival.
        results: pieces, a scored continuation, or what was raised.
        cancelled: nobody waits any more.
        seen: something was delivered, so that the work cannot start anew unseen.
        alone: a pass that it shared failed, so that its next one is not shared.
        routed: what it gets, and the serving state under which that was decided; or None.
    """

    request: GenerationRequest | ScoringRequest
    loop: asyncio.AbstractEventLoop
    asked: float = field(default_factory=time.monotonic)
    results: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    seen: bool = False
    alone: bool = False
    routed: tuple[ServingState, Routed] | None = None

    def routed_under(self, serving: ServingState) -> Routed | None:
        """What was decided under a serving state; None if nothing was."""
        return None if self.routed is None or self.routed[0] is not serving else self.routed[1]


class Outbox:
    """Collects an iteration's results: one wake-up for each event loop, not one for each row."""

    def __init__(self) -> None:
        self._results: dict[asyncio.AbstractEventLoop, list[tuple[Job, Any]]] = {}

    def put(self, job: Job, result: Any) -> None:
        """Sends `result` at the next `flush`."""
        job.seen = True
        self._results.setdefault(job.loop, []).append((job, result))

    def flush(self) -> None:
        """Hands everything over."""
        for loop, results in self._results.items():
            try:
                loop.call_soon_threadsafe(_deliver, results)
            except RuntimeError:  # the loop closed: nobody waits any more
                for job, _ in results:
                    job.cancelled = True
        self._results = {}


def _deliver(results: Iterable[tuple[Job, Any]]) -> None:
    for job, result in results:
        job.results.put_nowait(result)
