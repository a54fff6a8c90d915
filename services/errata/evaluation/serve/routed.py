"""A lane that routes, filled with thousands of random edits, served in the engine's thread.

Keys and artifacts are random because only time is measured; encoder, MLPs, widths and numbers of
experts are those of a real lane. Every prompt is searched for, and then counts as claimed or not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.artifact import Artifact
from errata.editing.effects.plan import RowPlan
from errata.editing.elder import experts as elder_experts
from errata.editing.elder.banks import FrozenBank, FrozenBanks
from errata.editing.elder.packing import Packed
from errata.editing.elder.packing import pack as pack_elder
from errata.editing.lane.claims import Claim, RoutingView, VectorView
from errata.editing.lane.commits import Commit, LaneModelCommit
from errata.editing.lane.contract import Lane
from errata.editing.lane.inventory import fact_of
from errata.editing.lane.repository import Rows
from errata.editing.lemoe import experts as lemoe_experts
from errata.editing.lemoe.lane_experts import LaneExpert, SharedRouting
from errata.editing.lemoe.packing import pack as pack_lemoe
from errata.editing.lemoe.projection import Projection
from errata.editing.model.causal_lm import CausalLM
from errata.editing.namespaces import Readings
from errata.editing.recipe.state import pack
from errata.editing.registry import get_method
from errata.editing.retriever.gate import Gate
from errata.editing.retriever.installed_gate import installed_gate
from errata.engine.sequence import Version
from errata.engine.serving_state import ServingState
from errata.errors import InvalidRequestError
from errata.indices.faiss_indices import FaissIndices
from errata.replica.routing_table import RoutingTable
from errata.worker.lane_router import LaneRouter

_LANE = "lanes/facts"
_SMALL = 0.02  # scale of random edits, so that answers do not become noise


@dataclass(frozen=True, slots=True)
class SyntheticLane:
    """A lane filled with random edits.

    Attributes:
        method: of the lane.
        values: of its configuration, where they differ from the defaults.
        model: folder of its lane model; None if it needs none.
        num_edits: number of random edits.
        num_experts: number of LEMoE experts that share the edits.
    """

    method: str
    values: Mapping[str, Any]
    model: Path | None
    num_edits: int
    num_experts: int = 8


def routed_state(
    model: CausalLM, lane: SyntheticLane, *, claimed: bool, seed: int = 0
) -> ServingState:
    """The serving state of a lane with many active edits.

    Args:
        model: the LLM.
        lane: what to serve.
        claimed: whether edits claim every row, or none.
        seed: of all random numbers.

    Raises:
        InvalidRequestError: the method does not route, or a lane model is missing.
        ModelNotFoundError, BaseModelMismatchError, ArtifactCorruptError: about the lane model.
    """
    method = get_method(lane.method)
    make = MAKERS.get(lane.method)
    if make is None:
        raise InvalidRequestError(
            f"method {lane.method} does not route; choose one of {', '.join(MAKERS)}.",
            field="method",
        )
    config = method.config.model_validate(method.values("", lane.values))
    opened = method.open(model, config, None, name=_LANE, indices=FaissIndices())
    gate = learn(opened, model, lane.model)
    names = tuple(f"edits/2-{number}" for number in range(lane.num_edits))
    rng = torch.Generator().manual_seed(seed)
    artifact = make(model, config, gate, names, lane, rng)
    opened.prepare(Commit(2, names, artifact)).apply()
    view = opened.view()
    assert view is not None, "every lane that has a maker routes"
    view = _Forced(view, holds=claimed)
    table = RoutingTable({_LANE: view}, dict.fromkeys(names, 2))
    version = Version(2, bytes(32), opened.digest(), lane.num_edits)
    return ServingState(version, router=LaneRouter(table, table.claims))


def learn(lane: Lane, model: CausalLM, folder: Path | None) -> Gate | None:
    """Gives the lane its lane model, if it needs one; what decides its claims then."""
    if lane.lane_model is None:
        return None
    if folder is None and lane.lane_model.takes_gate:
        folder = installed_gate()
    if folder is None:
        raise InvalidRequestError(
            "give --lane-model, a folder that `errata train recipe` made.", field="lane_model"
        )
    data = lane.lane_model.read(folder)
    digest = hashlib.sha256(data).hexdigest()
    lane.prepare(LaneModelCommit(1, Artifact.from_bytes(data), digest, (), None)).apply()
    return Gate.of_bytes(data, model)


@dataclass(frozen=True, eq=False, slots=True)
class _Forced:
    """A lane's view in which every claim holds, or none; everything else is unchanged."""

    view: RoutingView
    holds: bool

    @property
    def vector_view(self) -> _ForcedVectors | None:
        inner = self.view.vector_view
        return None if inner is None else _ForcedVectors(inner, self.holds)

    def claims(self, prompts: Sequence[str], readings: Readings = None) -> list[Claim]:
        return _forced(self.view.claims(prompts, readings), self.holds)

    def plans(self, claims: Sequence[Claim]) -> list[RowPlan]:
        return self.view.plans(claims)


@dataclass(frozen=True, eq=False, slots=True)
class _ForcedVectors:
    """The same for a lane that decides by vectors."""

    view: VectorView
    holds: bool

    @property
    def module(self) -> nn.Module | None:
        return self.view.module

    def vectors(self, prompts: Sequence[str]) -> Tensor:
        return self.view.vectors(prompts)

    def vectors_of(self, states: Tensor) -> Tensor:
        return self.view.vectors_of(states)

    def claims_of(self, vectors: Tensor, readings: Readings = None) -> list[Claim]:
        return _forced(self.view.claims_of(vectors, readings), self.holds)


def _forced(claims: Sequence[Claim], holds: bool) -> list[Claim]:
    return [replace(claim, threshold=-math.inf if holds else math.inf) for claim in claims]


def _rows(names: tuple[str, ...], keys: Tensor, values: Tensor) -> Rows:
    return Rows(names, tuple(map(fact_of, names)), keys, values)


def _recipe(
    model: CausalLM,
    config: Any,
    gate: Gate | None,
    names: tuple[str, ...],
    lane: SyntheticLane,
    rng: torch.Generator,
) -> Artifact:
    assert gate is not None, "a RECIPE lane has a lane model"
    shape = gate.lane_model().shape
    keys = torch.randn(len(names), shape.d_r, generator=rng)
    prompts = _SMALL * torch.randn(len(names), *shape.prompt_size, generator=rng)
    return pack(gate.digest, model, _rows(names, keys, prompts))


def _elder(
    model: CausalLM,
    config: Any,
    gate: Gate | None,
    names: tuple[str, ...],
    lane: SyntheticLane,
    rng: torch.Generator,
) -> Artifact:
    shape = elder_experts.Shape.of(model, config)
    size = config.bank_edits or len(names)
    banks = []
    for start in range(0, len(names), size):
        experts = elder_experts.Experts.new(shape, config.init, start).requires_grad_(False)
        experts.lora_b.copy_(_SMALL * torch.randn(experts.lora_b.shape, generator=rng))
        mixture = experts.mixture_for(model)
        banks.append(FrozenBank.of(experts, mixture, names[start : start + size]))
    width = 0 if config.scope == "codes" else shape.d_q if gate is None else gate.model.sizes.d_r
    queries = torch.randn(len(names), shape.d_q, generator=rng)
    keys = torch.randn(len(names), width, generator=rng)
    digest = "" if gate is None else gate.digest
    rows, packed = _rows(names, keys, queries), Packed.whole(banks.pop().experts)
    frozen = FrozenBanks.joined(banks) if banks else None
    starts = bool(config.bank_edits)
    idf = torch.zeros(0)
    return pack_elder(model, digest, rows, packed, 0.0, idf, starts_bank=starts, frozen=frozen)


def _lemoe(
    model: CausalLM,
    config: Any,
    gate: Gate | None,
    names: tuple[str, ...],
    lane: SyntheticLane,
    rng: torch.Generator,
) -> Artifact:
    shape = lemoe_experts.Shape.of(model, config)
    width = shape.d if gate is None else gate.model.sizes.d_r
    experts = []
    for number in range(lane.num_experts):
        own = lemoe_experts.new_expert(model, shape, number)
        tensors = {
            name: p.detach().cpu() + _SMALL * torch.randn(p.shape, generator=rng)
            for name, p in own.items()
        }
        anchor = torch.randn(shape.d, generator=rng)
        experts.append(LaneExpert.of(shape, tensors, anchor))
    projection = Projection.new(shape, 0, is_residual=True)
    routing = SharedRouting.of(shape, projection, 0.0, torch.zeros(0))
    rows = _rows(
        names,
        torch.randn(len(names), width, generator=rng),
        torch.randn(len(names), shape.d, generator=rng),
    )
    owners = [number % lane.num_experts for number in range(len(names))]
    digest = "" if gate is None else gate.digest
    return pack_lemoe(model, digest, rows, routing, experts, owners, with_projection=True)


MAKERS: Mapping[str, Callable[..., Artifact]] = {
    "recipe": _recipe,
    "elder": _elder,
    "lemoe": _lemoe,
}
"""What makes the artifact of a commit, by method: (LLM, config, gate, names, lane, generator)."""
