"""The plan of the suite `load`, and its requests, which are generated in advance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from errata.evaluation.serve.own_system import OwnSystem

SLICES = (False, True, False, True)
"""Whether edits arrive during each slice of a run."""
_ASK_EDITED = 0.25  # share of requests that ask about the newest edit
_EDITED_TOKENS = 12  # enough for any target of the corpus


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to run.

    Attributes:
        out: folder for the plot.
        system: the one that is started.
        target: a running system to measure instead.
        api: requests go over `grpc` or `http`; edits always go over gRPC.
        http_url: of the running system's HTTP API, if `api` is `http`.
        lane: takes the edits; the default lane if empty.
        rate: requests per second, Poisson.
        edit_rate: edits per second in the slices with edits.
        seconds: of all slices together.
        max_requests: in all slices together.
        streaming_share: share of streamed requests.
        max_tokens: fewest and most new tokens of a request.
        ttft_limit_ms: to the first token, for goodput.
        e2e_limit_ms: to the end of the answer, for goodput.
        seed: of arrivals, prompts and lengths.
    """

    out: Path
    system: OwnSystem = field(default_factory=OwnSystem)
    target: str = ""
    api: str = "grpc"
    http_url: str = ""
    lane: str = ""
    rate: float = 8.0
    edit_rate: float = 0.5
    seconds: float = 40.0
    max_requests: int = 10_000
    streaming_share: float = 0.5
    max_tokens: tuple[int, int] = (4, 32)
    ttft_limit_ms: float = 500.0
    e2e_limit_ms: float = 2_000.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that is due `at` seconds into its slice."""

    at: float
    prompt: str
    max_tokens: int
    streamed: bool
    asks_edited: bool


def arrivals(plan: LoadPlan, prompts: Sequence[str], seed: int) -> list[Arrival]:
    """A slice's requests: Poisson at `plan.rate`, the same for the same seed."""
    rng = random.Random(seed)
    seconds = plan.seconds / len(SLICES)
    found: list[Arrival] = []
    at = rng.expovariate(plan.rate)
    while at < seconds and len(found) < plan.max_requests // len(SLICES):
        streamed, asks_edited = rng.random() < plan.streaming_share, rng.random() < _ASK_EDITED
        # In slices without edits, these ask about something else, for as many tokens.
        wanted = _EDITED_TOKENS if asks_edited else rng.randint(*plan.max_tokens)
        found.append(Arrival(at, rng.choice(prompts), wanted, streamed, asks_edited))
        at += rng.expovariate(plan.rate)
    return found
