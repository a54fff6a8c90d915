"""Requests of the engine's suites; runs and times them."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from errata import demo
from errata.editing.model.causal_lm import CausalLM
from errata.engine.contract import ServingEngine
from errata.engine.sequence import GenerationRequest

_NUM_PARAGRAPHS = 400  # of the demo's text, from which prompts are cut


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests of mixed or of equal lengths.

    Attributes:
        num_requests: number in one round.
        concurrency: number in flight.
        prompt_tokens: shortest and longest prompt.
        new_tokens: fewest and most new tokens, uniform on a logarithmic scale.
        seed: of lengths and tokens.
    """

    num_requests: int = 96
    concurrency: int = 32
    prompt_tokens: tuple[int, int] = (4, 48)
    new_tokens: tuple[int, int] = (4, 256)
    seed: int = 0

    def requests(self, vocabulary: int, max_context: int) -> list[GenerationRequest]:
        """The requests; each runs to its last token, even if the model ends its text earlier."""
        rng = random.Random(self.seed)
        low, high = (math.log(n) for n in self.new_tokens)
        made = []
        for _ in range(self.num_requests):
            size = rng.randint(*self.prompt_tokens)
            prompt = tuple(rng.randrange(1, vocabulary) for _ in range(size))
            wanted = round(math.exp(rng.uniform(low, high)))
            made.append(GenerationRequest(prompt, min(wanted, max_context - size), ignore_eos=True))
        return made


def in_words(model: CausalLM, requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
    """The same requests with text as prompts, of the same lengths.

    A retriever reads texts: random tokens would be several times as long for its own tokenizer.
    """
    text = " ".join(demo.load_corpus().training_text(0, _NUM_PARAGRAPHS))
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    rng, made = random.Random(0), []
    for request in requests:
        size = len(request.prompt_ids)
        start = rng.randrange(len(ids) - size)
        part = tuple(ids[start : start + size])
        made.append(replace(request, prompt_ids=part, prompt=model.tokenizer.decode(part)))
    return made


@dataclass(slots=True)
class Timings:
    """The times of one round, in seconds.

    Attributes:
        elapsed: of the whole round.
        num_tokens: new tokens in it.
        first: to the first piece of each stream.
        between: for each token after the first piece.
        whole: to the end of each answer.
    """

    elapsed: float = 0.0
    num_tokens: int = 0
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Throughput of the round."""
        return self.num_tokens / self.elapsed


async def run_round(
    engine: ServingEngine,
    requests: Sequence[GenerationRequest],
    concurrency: int,
    *,
    streaming: bool,
) -> Timings:
    """Runs the requests in order, with `concurrency` of them in flight."""
    timings, room = Timings(), asyncio.Semaphore(concurrency)

    async def one(request: GenerationRequest) -> None:
        async with room:
            begun = last = time.perf_counter()
            seen = 0
            async for piece in engine.generate(replace(request, streaming=streaming)):
                now = time.perf_counter()
                if not seen:
                    timings.first.append(now - begun)
                elif piece.num_tokens > seen:
                    new = piece.num_tokens - seen
                    timings.between += [(now - last) / new] * new
                seen, last = piece.num_tokens, now
            timings.whole.append(last - begun)
            timings.num_tokens += seen

    begun = time.perf_counter()
    await asyncio.gather(*[one(request) for request in requests])
    timings.elapsed = time.perf_counter() - begun
    return timings
