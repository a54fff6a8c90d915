"""Requests, plans and reference answers for the engine's tests."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import torch
from torch import Tensor

from errata.editing.effects.expert import Expert, WeightedExperts
from errata.editing.effects.mixture import GatedMixture, LoraBank, Mixture, Place
from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.effects.prefix import Prefix
from errata.editing.model.causal_lm import CausalLM
from errata.engine.engine import Engine
from errata.engine.limits import EngineLimits
from errata.engine.sequence import GenerationRequest, Piece, Version
from errata.engine.serving_state import FunctionRouter, ServingState

VERSION = Version(0, bytes(32), "state", 0)
EDITION = ServingState(VERSION)
KINDS = ("base", "prefix", "mixture", "expert")


@asynccontextmanager
async def running(
    model: CausalLM, state: ServingState = EDITION, limits: EngineLimits | None = None
) -> AsyncIterator[Engine]:
    """An engine over `model`."""
    engine = Engine(model, state, limits or EngineLimits(max_rows=4, max_queue=64))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def collect(engine: Engine, request: GenerationRequest) -> list[Piece]:
    """All pieces of one answer."""
    return [piece async for piece in engine.generate(request)]


def text_of(pieces: Sequence[Piece]) -> str:
    """The whole text."""
    return "".join(piece.text for piece in pieces)


class Synthetic:
    """Random plans that change answers a lot; equal seeds give equal plans."""

    def __init__(self, model: CausalLM, seed: int = 0, *, num_experts: int = 4, rank: int = 2):
        self._model = model
        self._random = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        places: list[Place] = [(1, "down"), (2, "up"), (3, "down")]
        self.mixtures = [
            Mixture(num_experts, {place: self._bank(place, num_experts, rank) for place in places})
            for _ in range(2)
        ]
        self.experts = [
            Expert(layer, self._normal(model.d_ff, model.d), self._normal(model.d, model.d_ff))
            for layer in (2, 2, 1)
        ]

    def plan(self, kind: str) -> RowPlan:
        """A plan of one kind; each call gives another one."""
        if kind == "base":
            return BASE
        if kind == "prefix":
            length = self._random.randint(1, 4)
            deep = self._random.sample(range(1, self._model.num_layers), self._random.randint(0, 2))
            prefix = Prefix(
                0.3 * self._normal(length, self._model.d),
                self._random.randint(0, 1),
                {layer: self._normal(length, self._model.d) for layer in deep},
            )
            return RowPlan((prefix,), edits=("edits/1-0",))
        if kind == "mixture":
            mixture = self._random.choice(self.mixtures)
            gates = torch.zeros(len(mixture.banks), mixture.num_experts)
            for row in gates:
                chosen = self._random.sample(range(mixture.num_experts), 2)
                row[chosen] = torch.tensor([0.6, 0.3])
            return RowPlan((GatedMixture(mixture, gates),), edits=("edits/2-0",))
        chosen_experts = self._random.sample(self.experts, self._random.randint(1, 2))
        weighted = tuple((expert, self._random.uniform(0.5, 1.0)) for expert in chosen_experts)
        return RowPlan((WeightedExperts(weighted),), edits=("edits/3-0",))

    def _bank(self, place: Place, num_experts: int, rank: int) -> LoraBank:
        d, d_ff = self._model.d, self._model.d_ff
        wide, narrow = (d_ff, d) if place[1] == "down" else (d, d_ff)
        return LoraBank(
            self._normal(num_experts * rank, wide), self._normal(narrow, num_experts * rank)
        )

    def _normal(self, *shape: int) -> Tensor:
        drawn = 0.3 * torch.randn(*shape, generator=self._generator)
        return drawn.to(self._model.device, self._model.dtype)


def routed(plans: Mapping[tuple[int, ...], RowPlan], version: Version = VERSION) -> ServingState:
    """A serving state with a fixed plan for each prompt."""
    return ServingState(
        version,
        router=FunctionRouter(lambda requests: [plans.get(r.prompt_ids, BASE) for r in requests]),
    )


def random_prompts(model: CausalLM, count: int, seed: int, longest: int = 12) -> list[list[int]]:
    """Different prompts of different lengths."""
    rng = random.Random(seed)
    size = len(model.tokenizer)
    return [
        [index % (size - 1) + 1, *(rng.randrange(1, size) for _ in range(rng.randint(1, longest)))]
        for index in range(count)
    ]


def greedy_alone(model: CausalLM, ids: Sequence[int], num_tokens: int) -> list[int]:
    """Greedy decoding of one row without padding, cache or engine."""
    row = list(ids)
    for _ in range(num_tokens):
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([row])).logits
        row.append(int(logits[0, -1].argmax()))
    return row[len(ids) :]
