"""Artifacts of realistic shapes with random content, to measure speed only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.packing import pack
from errata.editing.adaple.solve import LowRankDelta
from errata.editing.adaple.state import AdapleState
from errata.editing.adaple.view import AdapleAttribution
from errata.editing.artifact import Artifact
from errata.editing.effects.expert import Expert, WeightedExperts
from errata.editing.effects.mixture import GatedMixture, LoraBank, Mixture, Place
from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.effects.prefix import Prefix
from errata.editing.lane.commits import Commit
from errata.editing.lane.inventory import fact_of
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.weights import EditedWeights
from errata.engine.sequence import Version
from errata.engine.serving_state import ServingState

_PREFIX = 3  # RECIPE's l
_LAYERS, _LORAS, _TOP_K, _RANK = 6, 4, 2, 8  # ELDER's L, N, k, r
_EXPERTS = 4  # LEMoE stops at five
_EDITS_PER_COMMIT = 100


def mixed_plans(
    model: CausalLM, prompts: Sequence[tuple[int, ...]], seed: int = 0
) -> dict[tuple[int, ...], RowPlan]:
    """A plan for each prompt, in turn with a prefix, a mixture, an expert and nothing.

    Layers are those of the papers, in proportion to the model's depth: LoRAs on the down
    projections from two thirds on, experts slightly after the middle.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        drawn = 0.02 * torch.randn(*shape, generator=generator)
        return drawn.to(model.device, model.dtype)

    depth = model.num_layers
    last = min(depth, round(0.66 * depth) + _LAYERS)
    places: list[Place] = [(layer, "down") for layer in range(max(0, last - _LAYERS), last)]
    width = _LORAS * _RANK
    banks = {place: LoraBank(normal(width, model.d_ff), normal(model.d, width)) for place in places}
    mixture = Mixture(_LORAS, banks)
    layer = round(0.56 * depth)
    experts = [
        Expert(layer, normal(model.d_ff, model.d), normal(model.d, model.d_ff))
        for _ in range(_EXPERTS)
    ]
    plans: dict[tuple[int, ...], RowPlan] = {}
    for index, prompt in enumerate(prompts):
        kind = index % 4
        if kind == 0:
            plan = RowPlan((Prefix(normal(_PREFIX, model.d)),))
        elif kind == 1:
            scores = torch.rand(len(places), _LORAS, generator=generator).softmax(dim=-1)
            smallest = scores.topk(_LORAS - _TOP_K, largest=False).indices
            gates = scores.scatter(1, smallest, 0.0)
            plan = RowPlan((GatedMixture(mixture, gates),))
        elif kind == 2:
            expert = experts[index // 4 % _EXPERTS]
            plan = RowPlan((WeightedExperts(((expert, 1.0),)),))
        else:
            plan = BASE
        plans[prompt] = plan
    return plans


def adaple_state(model: CausalLM, num_edits: int, seed: int = 0) -> ServingState:
    """Applies `num_edits` random AdaPLE edits to the model; they claim none of the requests.

    The changed weights stay in the model.
    """
    generator = torch.Generator().manual_seed(seed)
    config = AdapleConfig()
    state = AdapleState(model, config, EditedWeights(model), "lanes/synthetic")
    layers = config.resolve_layers(model.num_layers)
    for seq, start in enumerate(range(0, num_edits, _EDITS_PER_COMMIT), start=1):
        size = min(_EDITS_PER_COMMIT, num_edits - start)
        names = tuple(f"edits/{seq}-{index}" for index in range(size))
        facts = [fact_of(name) for name in names]
        artifact = random_commit(model, config, layers, facts, generator)
        state.prepare_commit(Commit(seq, names, artifact)).apply()
    version = Version(num_edits, bytes(32), state.digest(), num_edits)
    return ServingState(version, AdapleAttribution(state))


def random_commit(
    model: CausalLM,
    config: AdapleConfig,
    layers: Sequence[int],
    facts: Sequence[str],
    generator: torch.Generator,
) -> Artifact:
    """A commit of one random edit for each fact, whose effect on answers is negligible."""
    size, deltas, keys = len(facts), {}, {}
    for layer in layers:
        key = torch.randn(model.d_ff, size, generator=generator)
        deltas[layer] = LowRankDelta(1e-6 * torch.randn(model.d, size, generator=generator), key)
        keys[layer] = 100.0 * key.double()  # far from every request
    return pack(model, config, 0, deltas, keys, facts, [()] * size)
