"""Artifacts on their way to vLLM's workers: what claimed rows get, as bytes under a digest.

A row's effects refer to large, shared tensors: a continuous prompt, a mixture of LoRAs, an expert.
They travel once, by `collective_rpc`. A request names them by digest.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from errata.editing.effects.expert import Expert, WeightedExperts
from errata.editing.effects.mixture import GatedMixture, LoraBank, Mixture
from errata.editing.effects.plan import RowPlan
from errata.editing.effects.prefix import Prefix


@dataclass(frozen=True, eq=False, slots=True)
class Columns:
    """Directions that edits are told by.

    Attributes:
        values: (d_ff, n) fp32.
    """

    values: Tensor


Part = Prefix | Mixture | Expert | Columns
"""What an artifact becomes in a worker."""

_IDLE_BYTES = 256 * 2**20
_MOST_DIGESTS = 256


@dataclass(frozen=True, slots=True)
class PackedPart:
    """An artifact as bytes.

    Attributes:
        digest: SHA-256, hex, of the bytes.
        data: safetensors of the tensors, behind a line of JSON that says what they are.
    """

    digest: str
    data: bytes


def pack(part: Part) -> PackedPart:
    """An artifact as bytes; equal artifacts give equal bytes."""
    match part:
        case Prefix():
            about: dict[str, Any] = {"kind": "prefix"}
            tensors = {"embeddings": part.embeddings}
            tensors |= {f"deep.{layer}": added for layer, added in part.deep.items()}
        case Mixture():
            about = {"kind": "mixture", "num_experts": part.num_experts, "places": [*part.banks]}
            tensors = {}
            for number, bank in enumerate(part.banks.values()):
                tensors |= {f"{number}.a": bank.a, f"{number}.b": bank.b}
        case Expert():
            about = {"kind": "expert", "layer": part.layer}
            tensors = {"up": part.up, "down": part.down}
        case Columns():
            about = {"kind": "columns"}
            tensors = {"values": part.values}
    # Copies: tensors may be views of one another, which the format does not know.
    own = {
        n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()
    }
    data = save(own)
    whole = json.dumps(about, sort_keys=True).encode() + b"\n" + data
    return PackedPart(hashlib.sha256(whole).hexdigest(), whole)


def unpack(data: bytes) -> Part:
    """An artifact of its bytes; its tensors are in host memory."""
    line, _, rest = data.partition(b"\n")
    about, tensors = json.loads(line), load(rest)
    if about["kind"] == "prefix":
        deep = {int(n[5:]): tensor for n, tensor in tensors.items() if n.startswith("deep.")}
        return Prefix(tensors["embeddings"], deep=deep)
    if about["kind"] == "mixture":
        banks = {
            (int(layer), part): LoraBank(tensors[f"{number}.a"], tensors[f"{number}.b"])
            for number, (layer, part) in enumerate(about["places"])
        }
        return Mixture(about["num_experts"], banks)
    if about["kind"] == "columns":
        return Columns(tensors["values"])
    return Expert(about["layer"], tensors["up"], tensors["down"])


@dataclass(frozen=True, slots=True)
class RowArtifacts:
    """What one request sends to the workers.

    Attributes:
        wire: the row's effects by digest, for `SamplingParams.extra_args`; empty without effects.
        parts: digest → artifact, for those that `wire` names.
    """

    wire: dict[str, Any]
    parts: Mapping[str, Part]

    @property
    def digest(self) -> str:
        """SHA-256, hex, of the effects; empty without any. Equal effects give equal digests."""
        if not self.wire:
            return ""
        return hashlib.sha256(json.dumps(self.wire, sort_keys=True).encode()).hexdigest()


@dataclass(eq=False, slots=True)
class Ledger:
    """Which artifacts the workers hold, and how many requests use each.

    An artifact without a request stays for the next one until `idle_bytes` of such artifacts are
    held; then the one that was used least recently is dropped.
    """

    idle_bytes: int = _IDLE_BYTES
    # By the artifact's id, which stays taken while the artifact is here.
    _digests: OrderedDict[int, tuple[Part, str]] = field(default_factory=OrderedDict)
    _uses: dict[str, int] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)  # of what the workers hold
    _idle: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def row(self, plan: RowPlan) -> RowArtifacts:
        """What a plan's effects send."""
        wire: dict[str, Any] = {}
        parts: dict[str, Part] = {}

        def digest(part: Part) -> str:
            found = self._digest(part)
            parts[found] = part
            return found

        for effect in plan.effects:
            match effect:
                case Prefix():
                    wire["prefix"] = {"of": digest(effect), "after": effect.after}
                case GatedMixture():
                    gates = effect.gates.tolist()
                    wire["mixture"] = {"of": digest(effect.mixture), "gates": gates}
                case WeightedExperts():
                    wire["experts"] = [[digest(expert), w] for expert, w in effect.experts]
                case _:
                    raise TypeError(f"the vLLM engine does not know {type(effect).__name__}.")
        return RowArtifacts(wire, parts)

    def of_parts(self, parts: Iterable[Part]) -> RowArtifacts:
        """Artifacts that all rows of a state use, and that no row names by itself."""
        return RowArtifacts({}, {self._digest(part): part for part in parts})

    def take(self, row: RowArtifacts) -> list[PackedPart]:
        """Counts one more request; returns the artifacts that the workers do not hold yet."""
        missing = []
        for digest, part in row.parts.items():
            self._idle.pop(digest, None)
            self._uses[digest] = self._uses.get(digest, 0) + 1
            if digest not in self._sizes:
                missing.append(pack(part))
                self._sizes[digest] = len(missing[-1].data)
        return missing

    def give_back(self, row: RowArtifacts) -> list[str]:
        """Counts one request less; returns the digests of artifacts to drop."""
        for digest in row.parts:
            self._uses[digest] -= 1
            if not self._uses[digest]:
                del self._uses[digest]
                if digest in self._sizes:
                    self._idle[digest] = None
        return list(self._overflow())

    def lose(self, digests: Iterable[str]) -> None:
        """Artifacts that did not arrive."""
        for digest in digests:
            del self._sizes[digest]

    def forget(self, row: RowArtifacts, *, but: RowArtifacts) -> None:
        """Does not keep objects for their digests any more, except those of another row."""
        kept = {id(part) for part in but.parts.values()}
        for part in row.parts.values():
            if id(part) not in kept:
                self._digests.pop(id(part), None)

    def _overflow(self) -> Iterable[str]:
        while self._idle and sum(self._sizes[digest] for digest in self._idle) > self.idle_bytes:
            digest, _ = self._idle.popitem(last=False)
            del self._sizes[digest]
            yield digest

    def _digest(self, part: Part) -> str:
        known = self._digests.get(id(part))
        if known is None:
            known = self._digests[id(part)] = part, pack(part).digest
        self._digests.move_to_end(id(part))
        if len(self._digests) > _MOST_DIGESTS:
            self._digests.popitem(last=False)
        return known[1]


def moved(part: Part, place: Callable[[Tensor], Tensor]) -> Part:
    """The same artifact with every tensor passed through `place`: tensor → tensor."""
    match part:
        case Prefix():
            deep = {layer: place(added) for layer, added in part.deep.items()}
            return Prefix(place(part.embeddings), deep=deep)
        case Mixture():
            banks = {at: LoraBank(place(b.a), place(b.b)) for at, b in part.banks.items()}
            return Mixture(part.num_experts, banks)
        case Expert():
            return Expert(part.layer, place(part.up), place(part.down))
        case Columns():
            return Columns(place(part.values))
