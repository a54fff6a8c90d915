"""What a replica holds for an ELDER lane: banks of experts, and a key and a query for each edit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from errata.editing.artifact import tensor_bytes
from errata.editing.effects.mixture import Mixture
from errata.editing.elder.allocation import pack_codes
from errata.editing.elder.banks import FrozenBank, FrozenBanks
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Experts
from errata.editing.model.causal_lm import BaseLLM
from errata.editing.retriever.gated_lane import GatedContents
from errata.errors import InvalidEditError


@dataclass(frozen=True, eq=False, slots=True)
class Learned:
    """The state that the edits of the learning bank share, as of the last commit.

    Attributes:
        experts: LoRAs and routers of the bank that learns.
        mixture: the LoRAs in the form that hooks add.
        limit: of the lane's scope test: ε of codes, τ of cosines.
        idf: of the lane, for scope `idf`, (V) fp32; else empty.
        digest: SHA-256, hex, of all of these.
    """

    experts: Experts
    mixture: Mixture
    limit: float
    idf: Tensor
    digest: str

    @classmethod
    def of(cls, experts: Experts, limit: float, idf: Tensor, llm: BaseLLM) -> Learned:
        """The state on the LLM's device, with its digest."""
        experts = experts.to(llm.device).requires_grad_(False)
        state = hashlib.sha256(repr(limit).encode())
        for tensor in (*experts.tensors().values(), idf):
            state.update(tensor_bytes(tensor))
        return cls(experts, experts.mixture_for(llm), limit, idf.to(llm.device), state.hexdigest())


@dataclass(frozen=True, eq=False)
class ElderContents(GatedContents):
    """The contents of a lane; keys (n, width) and queries (n, d_q) are in the inventory.

    Attributes:
        learned: the bank that learns, and the scope test; None before the first commit.
        frozen: earlier banks.
        codes: packed allocation codes of each repository's rows, (n, ⌈L·N/8⌉) uint8 on the host,
            by namespace; empty unless codes decide claims.
    """

    learned: Learned | None = None
    frozen: FrozenBanks = field(default_factory=FrozenBanks)
    codes: Mapping[str, Tensor] = field(default_factory=dict)

    def digests(self) -> Iterator[bytes]:
        """The digests of lane model, shared state, earlier banks and edits, in this order."""
        yield bytes.fromhex(self.model_digest)
        if self.learned is not None:
            yield bytes.fromhex(self.learned.digest)
        yield from self.frozen.digests()
        yield self.inventory.digests()

    @property
    def num_in_bank(self) -> int:
        """The number of active edits of the bank that learns."""
        return len(self.inventory.names) - len(self.frozen.bank_of)

    @property
    def namespace(self) -> str | None:
        """The namespace of the bank that learns; None if it has no active edit."""
        inventory, frozen = self.inventory, self.frozen.bank_of
        if self.num_in_bank == 0:
            return None
        newest = next(name for name in reversed(inventory.names) if name not in frozen)
        return inventory.namespace_of(newest)

    def bank_of(self, edit: str) -> tuple[Experts, Mixture]:
        """The experts that learned an edit, and their mixture; the lane has learned something."""
        bank = self.frozen.bank_of.get(edit, self.learned)
        assert bank is not None
        return bank.experts, bank.mixture

    def with_frozen(self) -> ElderContents:
        """The contents once the bank that learned is frozen; `learned` is still the same."""
        if self.learned is None:
            return self
        names = self.inventory.names
        edits = tuple(name for name in names if name not in self.frozen.bank_of)
        bank = FrozenBank.of(self.learned.experts, self.learned.mixture, edits)
        return replace(self, frozen=self.frozen.adding([bank]))


def is_of_other_namespace(contents: ElderContents, namespace: str, config: ElderConfig) -> bool:
    """Whether the bank that learns has edits of another namespace.

    A bank learns the edits of one namespace: what all of its edits share must not let one
    namespace's edits shape another's answers, and it has one answer to a prompt.

    Raises:
        InvalidEditError: it does, and the lane has no other bank.
    """
    learning = contents.namespace
    if learning is None or learning == namespace:
        return False
    if config.takes_one_namespace:
        raise InvalidEditError(
            "the lane has a single bank, which learns edits of one namespace, and it has those of "
            "another; use a lane with bank_edits, a RECIPE lane, or a lane for each namespace.",
            field="namespace",
        )
    return True


def codes_of(learned: Learned | None, queries: Tensor) -> Tensor:
    """Packed allocation codes of queries (n, d_q) under the current routers."""
    if learned is None:
        return torch.zeros(0, 0, dtype=torch.uint8)
    with torch.inference_mode():
        return pack_codes(learned.experts.codes(queries)).cpu()
