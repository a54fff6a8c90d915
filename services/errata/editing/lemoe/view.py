"""Selects the experts of a row before the LLM runs.

The engine's expert rows apply them (`editing.effects`): rows are sorted by expert, each distinct
expert takes two products, and rows without a claim stay unchanged, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from errata.editing.effects.expert import Expert, WeightedExperts
from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.lane.claims import NO_CLAIM, Claim
from errata.editing.lane.search import InnerProductIndex
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.lane_experts import ExpertStore
from errata.editing.lemoe.projection import anchored_gates, literal_gates
from errata.editing.lemoe.state import LemoeContents
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.namespaces import Readings
from errata.editing.scope import by_cosine, mean_embeddings, unit
from errata.errors import InvalidRequestError


@dataclass(frozen=True, eq=False, slots=True)
class LemoeView:
    """Routes by a snapshot of a lane's contents.

    Attributes:
        llm: of the replica.
        contents: of the lane.
        config: of the lane.
        index: over keys, shared with the lane's other views.
        store: of experts on the device, shared likewise; None in processes without the LLM.
    """

    llm: BaseLLM
    contents: LemoeContents
    config: LemoeConfig
    index: InnerProductIndex
    store: ExpertStore | None

    @property
    def vector_view(self) -> LemoeView | None:
        """This view, unless the learned gate decides, which needs texts."""
        return None if self.config.scope == "retriever" else self

    @property
    def module(self) -> nn.Module | None:
        """None: vectors are computed from token embeddings."""
        return None

    def claims(self, prompts: Sequence[str], readings: Readings = None) -> list[Claim]:
        """The edit that claims each prompt."""
        contents = self.contents
        if not contents.inventory.num_rows:
            return [NO_CLAIM] * len(prompts)
        if contents.gate is not None:
            return contents.gate.claims(contents.inventory, self.index, prompts, readings)
        return self.claims_of(self.vectors(prompts), readings)

    def vectors(self, prompts: Sequence[str]) -> Tensor:
        """e of prompts, (n, d)."""
        if not isinstance(self.llm, CausalLM):
            raise InvalidRequestError(
                f"scope {self.config.scope} needs embeddings that only the LLM has; send them.",
                field="vectors",
            )
        return mean_embeddings(self.llm, prompts, self._idf)

    def vectors_of(self, states: Tensor) -> Tensor:
        """Never called: the view names no `module`, so no claim waits for states of prefill."""
        raise NotImplementedError

    def claims_of(self, vectors: Tensor, readings: Readings = None) -> list[Claim]:
        """Claims by cosine; with scope `off`, the nearest edit claims at any cosine."""
        inventory, routing = self.contents.inventory, self.contents.routing
        if routing is None or not inventory.num_rows:
            return [NO_CLAIM] * len(vectors)
        if vectors.shape[-1] != routing.shape.d:
            raise InvalidRequestError(
                f"the lane needs vectors of {routing.shape.d} entries, not {vectors.shape[-1]}.",
                field="vectors",
            )
        limit = -math.inf if self.config.scope == "off" else routing.limit
        found = by_cosine(inventory, limit, self.index, unit(vectors), readings)
        return [replace(claim, vector=v) for claim, v in zip(found, vectors, strict=True)]

    def plans(self, claims: Sequence[Claim]) -> list[RowPlan]:
        """The expert that learned the claiming edit, or the experts with the nearest keys."""
        rows = [row for row, claim in enumerate(claims) if claim.holds]
        plans = [RowPlan(cut=True) if claim.cut else BASE for claim in claims]
        selected = self.experts_of([claims[row] for row in rows])
        for row, experts in zip(rows, selected, strict=True):
            claim = claims[row]
            weighted = tuple((self._expert(index), weight) for index, weight in experts)
            plans[row] = RowPlan((WeightedExperts(weighted),), (claim.edit,), claim.cut)
        return plans

    def experts_of(self, claims: Sequence[Claim]) -> list[list[tuple[int, float]]]:
        """Indices and weights of experts, for claims that hold."""
        contents, config = self.contents, self.config
        if not claims or contents.routing is None:
            return []
        if config.expert_of_edit:
            return [[(contents.expert_of[claim.edit], config.weight)] for claim in claims]
        with torch.inference_mode():
            e = torch.stack([self._embedding(claim) for claim in claims])
            v = contents.routing.projection(e)
            gates_of = literal_gates if config.routing == "literal" else anchored_gates
            indices, gates = gates_of(contents.anchors.to(v.device), v, config.top_k)
        weights = (config.weight * gates).tolist()
        return [list(zip(*row, strict=True)) for row in zip(indices.tolist(), weights, strict=True)]

    @property
    def _idf(self) -> Tensor | None:
        routing = self.contents.routing
        return routing.idf if routing is not None and self.config.scope == "idf" else None

    def _embedding(self, claim: Claim) -> Tensor:
        """The prompt's own e if the scope test computed it, otherwise the claiming edit's."""
        if claim.vector is not None:
            return claim.vector
        return self.contents.inventory.value_of(claim.edit)

    def _expert(self, index: int) -> Expert:
        assert self.store is not None, "only processes with the LLM make plans"
        return self.store.get(self.contents.experts[index])
