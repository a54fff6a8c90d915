"""A lane's experts and edits as artifacts, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.lane.inventory import FACT_BYTES, check_origin, pack_facts, unpack_facts
from errata.editing.lane.repository import Rows
from errata.editing.lemoe.experts import Shape
from errata.editing.lemoe.lane_experts import Member, Routing
from errata.editing.lemoe.projection import Projection
from errata.editing.model.causal_lm import BaseLLM
from errata.editing.retriever.gate import Gate
from errata.errors import ArtifactCorruptError

_METHOD = "lemoe"


@dataclass(frozen=True, eq=False, slots=True)
class Contents:
    """What an artifact holds.

    Attributes:
        rows: edits.
        routing: of the lane from now on.
        members: experts.
        member_of: for each row, which of them.
    """

    rows: Rows
    routing: Routing
    members: tuple[Member, ...]
    member_of: tuple[int, ...]


def pack(
    llm: BaseLLM,
    gate: Gate | None,
    rows: Rows,
    routing: Routing,
    members: Sequence[Member],
    member_of: Sequence[int],
    *,
    with_projection: bool,
) -> Artifact:
    """The artifact of a fit, or of a whole lane.

    Args:
        llm: the base model.
        gate: of the lane, if it has one.
        rows: edits.
        routing: of the lane.
        members: the experts that learned them.
        member_of: for each row, which of them.
        with_projection: whether the projection is new to the lane.
    """
    tensors = {"anchors": torch.stack([m.anchor for m in members]).cpu(), "idf": routing.idf.cpu()}
    for number, member in enumerate(members):
        tensors |= {f"expert.{number}.{n}": t.cpu() for n, t in member.tensors.items()}
    if with_projection:
        tensors["projection.down"] = routing.projection.down.cpu()
        tensors["projection.up"] = routing.projection.up.cpu()
    tensors["member_of"] = torch.tensor(member_of, dtype=torch.int64)
    facts = {
        "shape": json.dumps(asdict(routing.shape), sort_keys=True),
        "limit": repr(routing.limit),
        "residual": json.dumps(routing.projection.is_residual),
    }
    return _with_rows(llm, gate, rows, tensors, facts)


def pack_rows(llm: BaseLLM, gate: Gate, rows: Rows) -> Artifact:
    """Edits without experts: for a new lane model, under which experts stay."""
    return _with_rows(llm, gate, rows, {}, {})


def _with_rows(
    llm: BaseLLM, gate: Gate | None, rows: Rows, tensors: dict[str, Tensor], facts: dict[str, str]
) -> Artifact:
    mine = {
        "keys": rows.keys.cpu(),
        "embeddings": rows.values.cpu(),
        "facts": pack_facts(rows.facts),
    }
    lane_model = "" if gate is None else gate.digest
    metadata = {"method": _METHOD, "base_model": llm.digest, "lane_model": lane_model}
    return Artifact({**tensors, **mine}, {**metadata, **facts})


def read(
    artifact: Artifact,
    llm: BaseLLM,
    edits: tuple[str, ...],
    seq: int,
    *,
    gate: Gate | None,
    wanted: Shape | None,
    known: Routing | None,
) -> Contents:
    """Reads what `pack` made.

    Args:
        artifact: of a commit.
        llm: of the replica.
        edits: of the commit.
        seq: of the commit.
        gate: of the lane.
        wanted: what the lane's configuration gives, where that is known.
        known: of the lane before; gives the projection if the artifact brings none.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: it does not fit.
    """
    shape = _shape_in(artifact, wanted, seq)
    tensors = artifact.tensors
    num = len(tensors["anchors"]) if "anchors" in tensors else 0
    dtype = next((t.dtype for n, t in tensors.items() if n.startswith("expert.0.")), None)
    size = len(tensors["idf"]) if "idf" in tensors else 0
    specs = {
        "anchors": TensorSpec((num, shape.d), torch.float32),
        "idf": TensorSpec((size,), torch.float32),
        "member_of": TensorSpec((len(edits),), torch.int64),
    }
    for number in range(num):
        own = shape.specs(dtype or torch.float32)
        specs |= {f"expert.{number}.{name}": spec for name, spec in own.items()}
    if known is None or "projection.down" in tensors:
        specs["projection.down"] = TensorSpec((shape.d_p, shape.d), torch.float32)
        specs["projection.up"] = TensorSpec((shape.d, shape.d_p), torch.float32)
    rows = read_rows(artifact, llm, edits, seq, gate=gate, more=specs)
    owners = tensors["member_of"].tolist()
    if not num or set(owners) != set(range(num)):
        raise ArtifactCorruptError(f"commit {seq} has experts that learned no edit.", seq=seq)
    projection = known.projection if known is not None else None
    if projection is None or "projection.down" in tensors:
        is_residual = bool(json.loads(artifact.metadata["residual"]))
        made = Projection(tensors["projection.down"], tensors["projection.up"], is_residual)
        projection = made.to(llm.device)
    limit = float(artifact.metadata["limit"])
    routing = Routing.of(shape, projection, limit, tensors["idf"].to(llm.device))
    members = [
        Member.of(
            shape,
            {name: tensors[f"expert.{number}.{name}"] for name in shape.sizes()},
            tensors["anchors"][number],
        )
        for number in range(num)
    ]
    return Contents(rows, routing, tuple(members), tuple(owners))


def read_rows(
    artifact: Artifact,
    llm: BaseLLM,
    edits: tuple[str, ...],
    seq: int,
    *,
    gate: Gate | None,
    more: Mapping[str, TensorSpec] = MappingProxyType({}),
) -> Rows:
    """Reads the edits of an artifact that holds `more` beside them; as `read`."""
    check_origin(artifact, _METHOD, llm, "" if gate is None else gate.digest, seq)
    keys, e = artifact.tensors.get("keys"), artifact.tensors.get("embeddings")
    u = len(edits)
    width, d = (0 if t is None else t.shape[-1] for t in (keys, e))
    artifact.check(
        {
            **more,
            "keys": TensorSpec((u, width), torch.float32),
            "embeddings": TensorSpec((u, d), torch.float32),
            "facts": TensorSpec((u, FACT_BYTES), torch.uint8),
        }
    )
    told = unpack_facts(artifact.tensors["facts"])
    rows = Rows(edits, told, artifact.tensors["keys"], artifact.tensors["embeddings"])
    return rows.to(llm.device)


def _shape_in(artifact: Artifact, wanted: Shape | None, seq: int) -> Shape:
    try:
        shape = Shape(**json.loads(artifact.metadata["shape"]))
        float(artifact.metadata["limit"])
        json.loads(artifact.metadata["residual"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorruptError(
            f"commit {seq} does not say how its experts are built: {error}.", seq=seq
        ) from error
    if wanted is not None and shape != wanted:
        raise ArtifactCorruptError(
            f"commit {seq} has experts of another shape than the lane's configuration gives.",
            seq=seq,
        )
    return shape
