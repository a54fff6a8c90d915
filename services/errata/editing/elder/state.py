"""What a replica holds for an ELDER lane: shared experts, and a key and a query for each edit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from errata.editing.artifact import tensor_bytes
from errata.editing.effects.mixture import Mixture
from errata.editing.elder.allocation import pack_codes
from errata.editing.elder.experts import Experts
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.retriever.gated_lane import GatedContents


@dataclass(frozen=True, eq=False, slots=True)
class Learned:
    """The state that all edits of a lane share, as of the last commit.

    Attributes:
        experts: LoRAs and routers.
        mixture: the LoRAs in the form that hooks add.
        limit: ε of codes, τ of cosines.
        idf: for scope `idf`, (V) fp32; else empty.
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
        dtype = llm.dtype if isinstance(llm, CausalLM) else torch.float32
        mixture = experts.mixture(dtype=dtype)
        return cls(experts, mixture, limit, idf.to(llm.device), state.hexdigest())


def _no_codes() -> Tensor:
    return torch.zeros(0, 0, dtype=torch.uint8)


@dataclass(frozen=True, eq=False)
class ElderContents(GatedContents):
    """The contents of a lane; keys (n, width) and queries (n, d_q) are in the inventory.

    Attributes:
        learned: the shared state; None before the first commit.
        codes: packed allocation codes of the repository's rows, (n, ⌈L·N/8⌉) uint8 on the host.
    """

    learned: Learned | None = None
    codes: Tensor = field(default_factory=_no_codes)

    def digests(self) -> Iterator[bytes]:
        """The digests of lane model, shared state and edits, in this order."""
        yield bytes.fromhex(self.model_digest)
        if self.learned is not None:
            yield bytes.fromhex(self.learned.digest)
        yield self.inventory.digests()


def codes_of(learned: Learned | None, queries: Tensor) -> Tensor:
    """Packed allocation codes of queries (n, d_q) under the current routers."""
    if learned is None:
        return _no_codes()
    with torch.inference_mode():
        return pack_codes(learned.experts.codes(queries)).cpu()
