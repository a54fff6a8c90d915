"""A lane's experts, as replicas hold them, and the parameters that they share."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from errata.editing.artifact import tensor_bytes
from errata.editing.effects.expert import Expert
from errata.editing.lemoe.experts import Shape, as_expert
from errata.editing.lemoe.projection import Projection
from errata.editing.model.causal_lm import CausalLM


@dataclass(frozen=True, eq=False, slots=True)
class LaneExpert:
    """One expert of a lane, in host memory.

    Attributes:
        tensors: the expert's own, as committed.
        anchor: k_t, (d) fp32.
        digest: SHA-256 of tensors and anchor.
    """

    tensors: Mapping[str, Tensor]
    anchor: Tensor
    digest: bytes

    @classmethod
    def of(cls, shape: Shape, tensors: Mapping[str, Tensor], anchor: Tensor) -> LaneExpert:
        """Builds the expert and computes its digest."""
        state = hashlib.sha256(tensor_bytes(anchor))
        for name in shape.sizes():
            state.update(tensor_bytes(tensors[name]))
        return cls({name: t.cpu() for name, t in tensors.items()}, anchor.cpu(), state.digest())

    @property
    def num_bytes(self) -> int:
        """Bytes of the committed tensors and the anchor."""
        return sum(t.numel() * t.element_size() for t in (*self.tensors.values(), self.anchor))


@dataclass(frozen=True, eq=False, slots=True)
class SharedRouting:
    """Routing parameters that all experts of a lane share.

    Attributes:
        shape: of experts and projection.
        projection: from embeddings e to the vectors v that are compared with anchors.
        limit: τ of a cosine scope test.
        idf: for scope `idf`, (V) fp32; otherwise empty.
        digest: SHA-256 of the above, without the shape.
    """

    shape: Shape
    projection: Projection
    limit: float
    idf: Tensor
    digest: bytes

    @classmethod
    def of(cls, shape: Shape, projection: Projection, limit: float, idf: Tensor) -> SharedRouting:
        """Builds the parameters and computes their digest."""
        state = hashlib.sha256(repr((limit, projection.is_residual)).encode())
        for tensor in (projection.down, projection.up, idf):
            state.update(tensor_bytes(tensor))
        return cls(shape, projection, limit, idf, state.digest())


class ExpertStore:
    """The most recently used experts, on the device; copied from host memory when needed.

    Running rows hold references to their experts, so an evicted expert is freed after its last use.
    """

    def __init__(self, llm: CausalLM, shape: Shape, max_resident: int) -> None:
        """Starts without resident experts."""
        self._llm, self._shape, self._max_resident = llm, shape, max_resident
        self._resident: OrderedDict[bytes, Expert] = OrderedDict()
        self._lock = threading.Lock()  # views of several threads share the store

    def sizes(self) -> dict[str, int]:
        """Number of `experts` on the device, and their `bytes` there."""
        with self._lock:
            resident = list(self._resident.values())
        num_bytes = sum(expert.up.nbytes + expert.down.nbytes for expert in resident)
        return {"experts": len(resident), "bytes": num_bytes}

    def keep(self, experts: Iterable[LaneExpert]) -> None:
        """Evicts all experts but these."""
        kept = {expert.digest for expert in experts}
        with self._lock:
            for digest in self._resident.keys() - kept:
                del self._resident[digest]

    def get(self, expert: LaneExpert) -> Expert:
        """The expert as hooks use it, on the device."""
        with self._lock:
            resident = self._resident.pop(expert.digest, None)
            if resident is None:
                resident = to_device(self._llm, self._shape, expert)
            self._resident[expert.digest] = resident
            while len(self._resident) > self._max_resident:
                self._resident.popitem(last=False)
            return resident


def to_device(llm: CausalLM, shape: Shape, expert: LaneExpert) -> Expert:
    """Copies an expert to the model's device, in the model's dtype."""
    tensors = {n: t.to(device=llm.device, dtype=llm.dtype) for n, t in expert.tensors.items()}
    return as_expert(llm, shape, tensors)
