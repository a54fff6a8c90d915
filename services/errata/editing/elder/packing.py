"""What a commit carries: rows of its edits, and the lane's experts, whole or as what they changed.

Every batch moves all parameters a little, so that experts as they are have the same millions of
bytes for one edit as for a thousand. A commit behind another one has the difference, each vector
of it (a column of B, a row of A or of a router) in steps of its own size:

    s = max |θ' − θ| / 127,    n = round((θ' − θ) / s),    θ'' = θ + s·n

where θ is what the lane held and θ' what the fit found. Writer and replicas all hold θ'', never
θ', and the next fit begins with it: what was rounded away does not add up unseen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.elder.experts import Experts, Shape
from errata.editing.lane.inventory import pack_facts
from errata.editing.lane.repository import Rows
from errata.editing.model.causal_lm import BaseLLM
from errata.errors import ArtifactCorruptError

METHOD_NAME = "elder"
_MOST_STEPS = 127  # of int8
_ALONG: Mapping[str, int] = {"lora_a": -1, "lora_b": -2, "router_weight": -1, "router_bias": -1}


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """Experts as an artifact has them.

    Attributes:
        shape: of the experts.
        since: digest, hex, of what a difference is from; empty if the experts are whole.
        tensors: those of `Shape.sizes`, fp32; or for each of them n as `NAME.steps`, int8, and s
            as `NAME.size`, fp32, of one entry along each vector.
    """

    shape: Shape
    since: str
    tensors: Mapping[str, Tensor]

    @classmethod
    def whole(cls, experts: Experts) -> Packed:
        """All parameters."""
        return cls(experts.shape, "", experts.tensors())

    @classmethod
    def difference(cls, since: str, before: Experts, after: Experts) -> Packed:
        """From `before`, whose digest is `since`, to `after`; all numbers are finite."""
        known, tensors = before.tensors(), dict[str, Tensor]()
        for name, tensor in after.tensors().items():
            moved = tensor - known[name]
            size = moved.abs().amax(_ALONG[name], keepdim=True) / _MOST_STEPS
            steps = torch.where(size > 0, moved / size, 0.0).round()
            tensors |= {f"{name}.steps": steps.to(torch.int8), f"{name}.size": size}
        return cls(after.shape, since, tensors)

    @classmethod
    def read(cls, artifact: Artifact, seq: int) -> Packed:
        """What a commit brings; `specs` says how its tensors have to be.

        Raises:
            ArtifactCorruptError: it does not say how its experts are built.
        """
        try:
            told = json.loads(artifact.metadata["shape"])
            shape = Shape(**{**told, "layers": tuple(told["layers"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactCorruptError(
                f"commit {seq} does not say how its experts are built: {error}.", seq=seq
            ) from error
        return cls(shape, artifact.metadata.get("since", ""), artifact.tensors)

    def specs(self) -> dict[str, TensorSpec]:
        """What an artifact holds of experts."""
        made = {}
        for name, size in self.shape.sizes().items():
            if not self.since:
                made[name] = TensorSpec(size, torch.float32)
                continue
            made[f"{name}.steps"] = TensorSpec(size, torch.int8)
            each = list(size)
            each[_ALONG[name]] = 1
            made[f"{name}.size"] = TensorSpec(tuple(each), torch.float32)
        return made

    def experts(self, before: Experts | None) -> Experts:
        """The experts, to the bit the same on every replica.

        Args:
            before: what a difference is from; not needed for whole ones.
        """
        names = self.shape.sizes()
        if not self.since or before is None:
            return Experts(self.shape, {name: self.tensors[name] for name in names})
        known = before.tensors()
        moved = {
            name: self.tensors[f"{name}.size"] * self.tensors[f"{name}.steps"].float()
            for name in names
        }
        device = before.lora_a.device
        return Experts(self.shape, {name: known[name] + moved[name].to(device) for name in names})


def pack(
    llm: BaseLLM, gate: str, rows: Rows, packed: Packed, limit: float, idf: Tensor
) -> Artifact:
    """The artifact of a fit.

    Args:
        llm: the base model.
        gate: digest of the lane model; empty without one.
        rows: of the batch's edits.
        packed: the lane's experts, after the fit.
        limit: of the scope test.
        idf: for scope `idf`; else empty.
    """
    tensors = {name: packed.tensors[name].cpu() for name in packed.specs()}
    shape = json.dumps(asdict(packed.shape), sort_keys=True)
    facts = {"shape": shape, "since": packed.since, "limit": repr(limit)}
    return _with_rows(llm, gate, rows, {**tensors, "idf": idf.cpu()}, facts)


def pack_rows(llm: BaseLLM, gate: str, rows: Rows) -> Artifact:
    """Edits without what they share: for a new lane model, under which experts stay."""
    return _with_rows(llm, gate, rows, {}, {})


def _with_rows(
    llm: BaseLLM, gate: str, rows: Rows, tensors: dict[str, Tensor], facts: dict[str, str]
) -> Artifact:
    mine = {
        "keys": rows.keys.cpu(),
        "queries": rows.values.cpu(),
        "facts": pack_facts(rows.facts),
    }
    metadata = {"method": METHOD_NAME, "base_model": llm.digest, "lane_model": gate}
    return Artifact({**tensors, **mine}, {**metadata, **facts})
