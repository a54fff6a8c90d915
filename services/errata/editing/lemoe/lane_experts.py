"""What a lane learned, as replicas hold it: experts, and what they share."""

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
        tensors: its own, as committed.
        anchor: k_t, (d) fp32.
        digest: SHA-256 of tensors and anchor.
    """

    tensors: Mapping[str, Tensor]
    anchor: Tensor
    digest: bytes

    @classmethod
    def of(cls, shape: Shape, tensors: Mapping[str, Tensor], anchor: Tensor) -> LaneExpert:
        """With its digest."""
        state = hashlib.sha256(tensor_bytes(anchor))
        for name in shape.sizes():
            state.update(tensor_bytes(tensors[name]))
        return cls({name: t.cpu() for name, t in tensors.items()}, anchor.cpu(), state.digest())

    @property
    def num_bytes(self) -> int:
        """Of what was committed."""
        return sum(t.numel() * t.element_size() for t in (*self.tensors.values(), self.anchor))


@dataclass(frozen=True, eq=False, slots=True)
class SharedRouting:
    """What all experts of a lane share.

    Attributes:
        shape: of experts and projection.
        projection: from embeddings to what anchors are compared with.
        limit: τ of a cosine scope test.
        idf: for scope `idf`, (V) fp32; else empty.
        digest: SHA-256 of all that.
    """

    shape: Shape
    projection: Projection
    limit: float
    idf: Tensor
    digest: bytes

    @classmethod
    def of(cls, shape: Shape, projection: Projection, limit: float, idf: Tensor) -> SharedRouting:
        """With its digest."""
        state = hashlib.sha256(repr((limit, projection.is_residual)).encode())
        for tensor in (projection.down, projection.up, idf):
            state.update(tensor_bytes(tensor))
        return cls(shape, projection, limit, idf, state.digest())


class ExpertStore:
    """Experts on the device, those that were used last; made of the host's when they are needed.

    Rows that run keep theirs alive, so that one that has to go goes when nobody uses it any more.
    """

    def __init__(self, llm: CausalLM, shape: Shape, max_resident: int) -> None:
        """Nothing is resident yet."""
        self._llm, self._shape, self._most = llm, shape, max_resident
        self._resident: OrderedDict[bytes, Expert] = OrderedDict()
        self._lock = threading.Lock()  # views of several threads share the store

    def sizes(self) -> dict[str, int]:
        """`experts` on the device, and their `bytes` there."""
        with self._lock:
            held = list(self._resident.values())
        num_bytes = sum(expert.up.nbytes + expert.down.nbytes for expert in held)
        return {"experts": len(held), "bytes": num_bytes}

    def keep(self, experts: Iterable[LaneExpert]) -> None:
        """Lets experts go that are none of these any more."""
        known = {expert.digest for expert in experts}
        with self._lock:
            for digest in self._resident.keys() - known:
                del self._resident[digest]

    def get(self, own: LaneExpert) -> Expert:
        """The expert as the hooks use it."""
        with self._lock:
            found = self._resident.pop(own.digest, None)
            if found is None:
                found = placed(self._llm, self._shape, own)
            self._resident[own.digest] = found
            while len(self._resident) > self._most:
                self._resident.popitem(last=False)
            return found


def placed(llm: CausalLM, shape: Shape, own: LaneExpert) -> Expert:
    """An expert on the model's device, in its type."""
    tensors = {n: t.to(device=llm.device, dtype=llm.dtype) for n, t in own.tensors.items()}
    return as_expert(llm, shape, tensors)
