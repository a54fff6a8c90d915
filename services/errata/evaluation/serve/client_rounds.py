"""Rounds of requests that a client sends, for suites that compare two ways of asking."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from errata.evaluation.serve.http_client import HttpClient
from errata.evaluation.serve.report import quantiles_ms
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


def tokens_per_second(rounds: Sequence[Timings]) -> float:
    """Of all rounds together."""
    return sum(t.num_tokens for t in rounds) / sum(t.elapsed for t in rounds)


def compared(
    alone: Mapping[str, Sequence[Timings]],
    parallel: Mapping[str, Sequence[Timings]],
    ours: str,
    baseline: str,
) -> dict[str, Any]:
    """What `suite_report` is told of two ways of asking.

    Latencies are those of requests one by one; throughputs, those of parallel ones.
    """
    rates = {name: [t.tokens_per_second for t in found] for name, found in parallel.items()}
    whole = {name: [s for t in found for s in t.whole] for name, found in alone.items()}
    first = {name: [s for t in found for s in t.first] for name, found in alone.items()}
    pairs = zip(rates[ours], rates[baseline], strict=True)
    return {
        "ratio": median(mine / other for mine, other in pairs),
        "ours": median(rates[ours]),
        "baseline": median(rates[baseline]),
        "first": first[ours],
        "between": [s for t in alone[ours] for s in t.between],
        "whole": whole[ours],
        "p50_ratio": {
            "ttft": median(first[ours]) / median(first[baseline]),
            "e2e": median(whole[ours]) / median(whole[baseline]),
        },
        baseline: {
            "ttft_ms": quantiles_ms(first[baseline]),
            "e2e_ms": quantiles_ms(whole[baseline]),
        },
    }
