"""How a claimed row changes the forward pass: a mixture of LoRAs with the row's gates.

The engine's mixture rows do the rest (`editing.effects`): two matrix products over the claimed rows
of each bank that occurs in a batch; rows without a claim stay unchanged bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from errata.editing.effects.mixture import GatedMixture
from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.elder.codes import by_codes
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.queries import as_query, queries_of, query_module
from errata.editing.elder.state import ElderContents
from errata.editing.lane.claims import NO_CLAIM, Claim
from errata.editing.lane.search import HammingIndex, InnerProductIndex
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.namespaces import Readings
from errata.editing.scope import by_cosine, mean_embeddings, unit
from errata.errors import InvalidRequestError


@dataclass(frozen=True, eq=False, slots=True)
class ElderView:
    """Routes by the contents that a lane had when the view was created.

    Attributes:
        llm: of the replica.
        contents: of the lane.
        config: of the lane.
        keys: index over keys, shared with the lane's other views.
        codes: index over codes, shared in the same way.
    """

    llm: BaseLLM
    contents: ElderContents
    config: ElderConfig
    keys: InnerProductIndex
    codes: HammingIndex

    @property
    def vector_view(self) -> ElderView | None:
        """This view; None if a lane model decides by texts."""
        return None if self.config.scope == "retriever" else self

    @property
    def module(self) -> nn.Module | None:
        """The module at which queries are read; None if claims do not depend on queries."""
        learned = self.contents.learned
        if learned is None or self.config.scope == "idf" or not isinstance(self.llm, CausalLM):
            return None
        return query_module(self.llm, learned.experts.shape)

    def claims(self, prompts: Sequence[str], readings: Readings = None) -> list[Claim]:
        """Which edit claims each prompt."""
        gate, inventory = self.contents.gate, self.contents.inventory
        if self.contents.learned is None or not inventory.num_rows:
            return [NO_CLAIM] * len(prompts)
        if gate is not None:
            return gate.claims(inventory, self.keys, prompts, readings)
        return self.claims_of(self.vectors(prompts), readings)

    def vectors(self, prompts: Sequence[str]) -> Tensor:
        """Queries (n, d_q), or for scope `idf` weighted embeddings (n, d)."""
        learned = self.contents.learned
        if learned is None:
            return torch.zeros(len(prompts), 0)
        if self.config.scope == "idf":
            return unit(mean_embeddings(self._causal_lm, prompts, learned.idf))
        return queries_of(self._causal_lm, learned.experts.shape, prompts)

    def vectors_of(self, states: Tensor) -> Tensor:
        """Queries (n, d_q)."""
        assert self.contents.learned is not None
        return as_query(self.contents.learned.experts.shape, states)

    def claims_of(self, vectors: Tensor, readings: Readings = None) -> list[Claim]:
        """Decides by allocation codes or by cosine; each claim carries its vector."""
        contents, learned = self.contents, self.contents.learned
        if learned is None or not contents.inventory.num_rows:
            return [NO_CLAIM] * len(vectors)
        width = contents.repository.keys.shape[1]
        if self.config.scope == "codes":
            width = learned.experts.shape.d_q
        if vectors.shape[-1] != width:
            raise InvalidRequestError(
                f"the lane routes by vectors of {width} entries, not {vectors.shape[-1]}.",
                field="vectors",
            )
        if self.config.scope == "codes":
            found = by_codes(contents, self.codes, vectors, readings)
        else:
            asked = unit(vectors)
            found = by_cosine(contents.inventory, learned.limit, self.keys, asked, readings)
        return [replace(claim, vector=v) for claim, v in zip(found, vectors, strict=True)]

    def plans(self, claims: Sequence[Claim]) -> list[RowPlan]:
        """The mixture of the claiming edit's bank, weighted by its query or the row's own."""
        plans = [RowPlan(cut=True) if claim.cut else BASE for claim in claims]
        rows = [number for number, claim in enumerate(claims) if claim.holds]
        if self.contents.learned is None or not rows:
            return plans
        members: dict[int, list[int]] = {}  # id of the bank's mixture → rows
        for number in rows:
            _, mixture = self.contents.bank_of(claims[number].edit)
            members.setdefault(id(mixture), []).append(number)
        for numbers in members.values():
            experts, mixture = self.contents.bank_of(claims[numbers[0]].edit)
            queries = torch.stack([self._query(claims[number]) for number in numbers])
            with torch.inference_mode():
                gates = experts.gates(queries)
            for number, weights in zip(numbers, gates, strict=True):
                claim = claims[number]
                effect = GatedMixture(mixture, weights)
                plans[number] = RowPlan((effect,), (claim.edit,), claim.cut)
        return plans

    @property
    def _causal_lm(self) -> CausalLM:
        if not isinstance(self.llm, CausalLM):
            raise InvalidRequestError(
                f"scope {self.config.scope} needs vectors that only the LLM computes; send them.",
                field="vectors",
            )
        return self.llm

    def _query(self, claim: Claim) -> torch.Tensor:
        if self.config.gates == "row" and claim.vector is not None:
            return claim.vector
        return self.contents.inventory.value_of(claim.edit)
