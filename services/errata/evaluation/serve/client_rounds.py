"""Rounds of requests that a client sends, for suites that compare two ways of asking."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from errata.evaluation.serve.http_client import HttpClient
from errata.evaluation.serve.workload import Timings
from errata_client import AsyncClient


@dataclass(frozen=True, slots=True)
class ClientLoad:
    """One round.

    Attributes:
        requests: in the round.
        max_tokens: of an answer.
    """

    requests: int
    max_tokens: int


async def asked(
    client: AsyncClient | HttpClient, prompts: Sequence[str], load: ClientLoad, concurrency: int
) -> Timings:
    """Requests with a fixed number in flight; every second one is streamed."""
    timings, room = Timings(), asyncio.Semaphore(concurrency)

    async def one(number: int, prompt: str) -> None:
        async with room:
            begun = last = time.perf_counter()
            if number % 2:
                answer = await client.generate(prompt, max_tokens=load.max_tokens)
                timings.num_tokens += answer.num_tokens
                timings.whole.append(time.perf_counter() - begun)
                return
            seen = 0
            async for chunk in client.stream(prompt, max_tokens=load.max_tokens):
                now = time.perf_counter()
                new = chunk.num_tokens - seen
                if not seen:
                    timings.first.append(now - begun)
                elif new:
                    timings.between += [(now - last) / new] * new
                seen, last = chunk.num_tokens, now
            timings.num_tokens += seen

    begun = time.perf_counter()
    chosen = itertools.islice(itertools.cycle(prompts), load.requests)
    await asyncio.gather(*[one(number, prompt) for number, prompt in enumerate(chosen)])
    timings.elapsed = time.perf_counter() - begun
    return timings
