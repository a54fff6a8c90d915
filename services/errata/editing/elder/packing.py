"""The content of a commit: rows of its edits, and the lane's experts, in full or as a difference.

Every batch changes all parameters slightly, so full experts take the same millions of bytes for
one edit as for a thousand. A commit after the first carries the difference instead. Each vector of
it (a column of B, a row of A or of a router) is quantised with its own step size:

    s = max |θ' − θ| / 127,    n = round((θ' − θ) / s),    θ'' = θ + s·n

where θ is what the lane held and θ' the result of the fit. Writer and replicas all hold θ'', never
θ', and the next fit starts from θ'', so that rounding errors do not accumulate unnoticed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.elder.banks import FrozenBank, FrozenBanks
from errata.editing.elder.experts import Experts, Shape
from errata.editing.elder.state import Learned
from errata.editing.lane.repository import Rows
from errata.editing.lane.row_format import RowFormat
from errata.editing.model.causal_lm import BaseLLM
from errata.errors import ArtifactCorruptError

FORMAT = RowFormat(method="elder", values="queries")
BANK = "bank."
BANK_OF = "bank_of"  # of each edit, −1 for the bank that learns
_STARTS_BANK = "starts_bank"
_MAX_STEPS = 127  # int8
_VECTOR_DIM: Mapping[str, int] = {
    "lora_a": -1,
    "lora_b": -2,
    "router_weight": -1,
    "router_bias": -1,
}


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """Experts as an artifact holds them.

    Attributes:
        shape: of the experts.
        since: hex digest of the state that a difference starts from; empty for full experts.
        tensors: those of `Shape.sizes`, fp32; for a difference, n of each as `NAME.steps`, int8,
            and s as `NAME.size`, fp32, one entry per vector.
    """

    shape: Shape
    since: str
    tensors: Mapping[str, Tensor]

    @classmethod
    def whole(cls, experts: Experts) -> Packed:
        """Full experts."""
        return cls(experts.shape, "", experts.tensors())

    @classmethod
    def difference(cls, since: str, before: Experts, after: Experts) -> Packed:
        """The difference from `before`, whose digest is `since`, to `after`; all values finite."""
        known, tensors = before.tensors(), dict[str, Tensor]()
        for name, tensor in after.tensors().items():
            moved = tensor - known[name]
            size = moved.abs().amax(_VECTOR_DIM[name], keepdim=True) / _MAX_STEPS
            steps = torch.where(size > 0, moved / size, 0.0).round()
            tensors |= {f"{name}.steps": steps.to(torch.int8), f"{name}.size": size}
        return cls(after.shape, since, tensors)

    @classmethod
    def read(cls, artifact: Artifact, seq: int) -> Packed:
        """The experts that a commit carries; `specs` lists the tensors that they need.

        Raises:
            ArtifactCorruptError: it does not describe the shape of its experts.
        """
        try:
            fields = json.loads(artifact.metadata["shape"])
            shape = Shape(**{**fields, "layers": tuple(fields["layers"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactCorruptError(
                f"commit {seq} does not describe the shape of its experts: {error}.", seq=seq
            ) from error
        return cls(shape, artifact.metadata.get("since", ""), artifact.tensors)

    def specs(self) -> dict[str, TensorSpec]:
        """The tensors that an artifact with these experts holds."""
        specs = {}
        for name, size in self.shape.sizes().items():
            if not self.since:
                specs[name] = TensorSpec(size, torch.float32)
                continue
            specs[f"{name}.steps"] = TensorSpec(size, torch.int8)
            step_size = list(size)
            step_size[_VECTOR_DIM[name]] = 1
            specs[f"{name}.size"] = TensorSpec(tuple(step_size), torch.float32)
        return specs

    def experts(self, before: Experts | None) -> Experts:
        """The experts, bit for bit the same on every replica.

        Args:
            before: the experts that a difference starts from; full experts need none.
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


def difference_bytes(shape: Shape) -> int:
    """The bytes of a difference: an int8 step per parameter, and an fp32 step size per vector."""
    specs = Packed(shape, "a difference", {}).specs().values()
    return sum(math.prod(filter(None, spec.shape)) * spec.dtype.itemsize for spec in specs)


def pack(
    llm: BaseLLM,
    gate: str,
    rows: Rows,
    packed: Packed,
    limit: float,
    idf: Tensor,
    *,
    starts_bank: bool = False,
    frozen: FrozenBanks | None = None,
) -> Artifact:
    """The artifact of a fit, or of a whole lane.

    Args:
        llm: the base model.
        gate: digest of the lane model; empty without one.
        rows: of the batch's edits, or of all.
        packed: the experts that learn, after the fit.
        limit: of the scope test.
        idf: for scope `idf`; else empty.
        starts_bank: whether `packed` is a new bank, and the one before it is now frozen.
        frozen: the banks of the whole lane; None for the artifact of a fit.
    """
    tensors = {name: packed.tensors[name].cpu() for name in packed.specs()}
    if frozen is not None:
        number_of = {name: n for n, bank in enumerate(frozen.banks) for name in bank.edits}
        numbers = [number_of.get(name, -1) for name in rows.names]
        tensors[BANK_OF] = torch.tensor(numbers, dtype=torch.int64)
        for number, bank in enumerate(frozen.banks):
            own = bank.experts.tensors().items()
            tensors |= {f"{BANK}{number}.{name}": tensor.cpu() for name, tensor in own}
    shape = json.dumps(asdict(packed.shape), sort_keys=True)
    metadata = {"shape": shape, "since": packed.since, "limit": repr(limit)}
    if starts_bank:
        metadata[_STARTS_BANK] = "true"
    return FORMAT.pack(llm, gate, rows, {**tensors, "idf": idf.cpu()}, metadata)


def pack_rows(llm: BaseLLM, gate: str, rows: Rows) -> Artifact:
    """The artifact of rows alone, for a new lane model; the experts stay."""
    return FORMAT.pack(llm, gate, rows)


@dataclass(frozen=True, eq=False, slots=True)
class Unpacked:
    """The content of an artifact.

    Attributes:
        learned: the bank that learns, and the scope test.
        rows: the artifact's edits.
        starts_bank: whether the lane's bank before this commit is frozen by it.
        frozen: the earlier banks that the artifact itself carries.
    """

    learned: Learned
    rows: Rows
    starts_bank: bool
    frozen: FrozenBanks


def read_artifact(
    artifact: Artifact,
    llm: BaseLLM,
    edits: tuple[str, ...],
    seq: int,
    *,
    gate: str,
    expected: Shape | None,
    before: Learned | None,
) -> Unpacked:
    """Reads the output of `pack`.

    Args:
        artifact: of a commit.
        llm: of the replica.
        edits: of the commit.
        seq: of the commit.
        gate: digest of the lane model; empty without one.
        expected: the shape that the lane's configuration gives; None if it is unknown here.
        before: what the lane holds; without it, the artifact must hold full experts.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: the artifact does not fit.
    """
    packed = Packed.read(artifact, seq)
    if expected is not None and packed.shape != expected:
        raise ArtifactCorruptError(
            f"commit {seq} has experts whose shape differs from the lane's configuration.",
            seq=seq,
        )
    if packed.since and (before is None or before.digest != packed.since):
        raise ArtifactCorruptError(
            f"commit {seq} carries a difference from experts that the lane does not hold.", seq=seq
        )
    num_idf = len(artifact.tensors["idf"]) if "idf" in artifact.tensors else 0
    bank_specs = _bank_specs(artifact, packed.shape, len(edits))
    rows = FORMAT.read(
        artifact,
        llm,
        gate,
        edits,
        seq,
        value_size=(packed.shape.d_q,),
        others={**packed.specs(), **bank_specs, "idf": TensorSpec((num_idf,), torch.float32)},
    )
    experts = packed.experts(None if before is None else before.experts)
    learned = Learned.of(experts, _limit(artifact, seq), artifact.tensors["idf"], llm)
    frozen = _frozen_in(artifact, packed.shape, edits, llm, seq)
    return Unpacked(learned, rows, _STARTS_BANK in artifact.metadata, frozen)


def _bank_specs(artifact: Artifact, shape: Shape, num_edits: int) -> dict[str, TensorSpec]:
    """The tensors of frozen banks in a lane's artifact; those of fits and of old lanes have none.

    Units are numbered from 0; a tensor that belongs to none of them fails the artifact's check.
    """
    if BANK_OF not in artifact.tensors:
        return {}
    specs = {BANK_OF: TensorSpec((num_edits,), torch.int64)}
    number = 0
    while any(name.startswith(f"{BANK}{number}.") for name in artifact.tensors):
        for name, size in shape.sizes().items():
            specs[f"{BANK}{number}.{name}"] = TensorSpec(size, torch.float32)
        number += 1
    return specs


def _frozen_in(
    artifact: Artifact, shape: Shape, edits: tuple[str, ...], llm: BaseLLM, seq: int
) -> FrozenBanks:
    """The frozen banks of a lane's artifact, which is checked except for `bank_of`."""
    if BANK_OF not in artifact.tensors:
        return FrozenBanks()
    first = next(iter(shape.sizes()))
    count = sum(n.startswith(BANK) and n.endswith(f".{first}") for n in artifact.tensors)
    numbers = artifact.tensors[BANK_OF].tolist()
    if any(not -1 <= number < count for number in numbers):
        raise ArtifactCorruptError(f"commit {seq} has edits of banks that it lacks.", seq=seq)
    members: list[list[str]] = [[] for _ in range(count)]
    for name, number in zip(edits, numbers, strict=True):
        if number >= 0:
            members[number].append(name)
    banks = []
    for number, names in enumerate(members):
        tensors = {name: artifact.tensors[f"{BANK}{number}.{name}"] for name in shape.sizes()}
        experts = Experts(shape, tensors).to(llm.device).requires_grad_(False)
        banks.append(FrozenBank.of(experts, experts.mixture_for(llm), tuple(names)))
    return FrozenBanks.joined(banks)


def read_rows(
    artifact: Artifact,
    llm: BaseLLM,
    edits: tuple[str, ...],
    seq: int,
    *,
    gate: str,
    learned: Learned | None,
) -> Rows:
    """Reads the output of `pack_rows`, as `read_artifact`."""
    if learned is None:
        raise ArtifactCorruptError(f"entry {seq} carries edits, but the lane has no experts.")
    size = (learned.experts.shape.d_q,)
    return FORMAT.read(artifact, llm, gate, edits, seq, value_size=size)


def _limit(artifact: Artifact, seq: int) -> float:
    try:
        return float(artifact.metadata["limit"])
    except (KeyError, ValueError) as error:
        raise ArtifactCorruptError(
            f"commit {seq} has no valid limit for its scope test: {error}.", seq=seq
        ) from error
