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
from errata.editing.elder.state import Learned
from errata.editing.lane.repository import Rows
from errata.editing.lane.row_format import RowFormat
from errata.editing.model.causal_lm import BaseLLM
from errata.errors import ArtifactCorruptError

_FORMAT = RowFormat(method="elder", values="queries")
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
    metadata = {"shape": shape, "since": packed.since, "limit": repr(limit)}
    return _FORMAT.pack(llm, gate, rows, {**tensors, "idf": idf.cpu()}, metadata)


def pack_rows(llm: BaseLLM, gate: str, rows: Rows) -> Artifact:
    """Edits without what they share: for a new lane model, under which experts stay."""
    return _FORMAT.pack(llm, gate, rows)


def read(
    artifact: Artifact,
    llm: BaseLLM,
    edits: tuple[str, ...],
    seq: int,
    *,
    gate: str,
    wanted: Shape | None,
    before: Learned | None,
) -> tuple[Learned, Rows]:
    """Reads what `pack` made.

    Args:
        artifact: of a commit.
        llm: of the replica.
        edits: of the commit.
        seq: of the commit.
        gate: digest of the lane model; empty without one.
        wanted: what the lane's configuration gives, where that is known.
        before: what the lane holds; without it the artifact must have all experts.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: it does not fit.
    """
    packed = Packed.read(artifact, seq)
    if wanted is not None and packed.shape != wanted:
        raise ArtifactCorruptError(
            f"commit {seq} has experts of another shape than the lane's configuration gives.",
            seq=seq,
        )
    if packed.since and (before is None or before.digest != packed.since):
        raise ArtifactCorruptError(
            f"commit {seq} has the difference to experts that the lane does not hold.", seq=seq
        )
    num_idf = len(artifact.tensors["idf"]) if "idf" in artifact.tensors else 0
    rows = _FORMAT.read(
        artifact,
        llm,
        gate,
        edits,
        seq,
        value_size=(packed.shape.d_q,),
        others={**packed.specs(), "idf": TensorSpec((num_idf,), torch.float32)},
    )
    experts = packed.experts(None if before is None else before.experts)
    return Learned.of(experts, _limit(artifact, seq), artifact.tensors["idf"], llm), rows


def read_rows(
    artifact: Artifact,
    llm: BaseLLM,
    edits: tuple[str, ...],
    seq: int,
    *,
    gate: str,
    learned: Learned | None,
) -> Rows:
    """Reads what `pack_rows` made; as `read`."""
    if learned is None:
        raise ArtifactCorruptError("edits came before the experts that answer them.")
    size = (learned.experts.shape.d_q,)
    return _FORMAT.read(artifact, llm, gate, edits, seq, value_size=size)


def _limit(artifact: Artifact, seq: int) -> float:
    try:
        return float(artifact.metadata["limit"])
    except (KeyError, ValueError) as error:
        raise ArtifactCorruptError(
            f"commit {seq} does not say what its edits claim: {error}.", seq=seq
        ) from error
