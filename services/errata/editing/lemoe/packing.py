"""Converts a lane's experts and edits to artifacts, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.lane.repository import Rows
from errata.editing.lane.row_format import RowFormat
from errata.editing.lemoe.experts import Shape
from errata.editing.lemoe.lane_experts import LaneExpert, SharedRouting
from errata.editing.lemoe.projection import Projection
from errata.editing.model.causal_lm import BaseLLM
from errata.errors import ArtifactCorruptError

FORMAT = RowFormat(method="lemoe", values="embeddings")
EXPERT = "expert."


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """Content of an artifact.

    Attributes:
        rows: edits.
        routing: of the lane after this commit.
        experts: in the artifact's order.
        expert_of: for each row, the index of its expert.
    """

    rows: Rows
    routing: SharedRouting
    experts: tuple[LaneExpert, ...]
    expert_of: tuple[int, ...]


def pack(
    llm: BaseLLM,
    gate: str,
    rows: Rows,
    routing: SharedRouting,
    experts: Sequence[LaneExpert],
    expert_of: Sequence[int],
    *,
    with_projection: bool,
) -> Artifact:
    """Makes the artifact of a fit, or of a whole lane.

    Args:
        llm: the base model.
        gate: digest of the lane model; empty without one.
        rows: edits.
        routing: of the lane.
        experts: that learned the edits.
        expert_of: for each row, the index of its expert.
        with_projection: also store the projection; needed if it is new to the lane.
    """
    tensors = {
        "anchors": torch.stack([expert.anchor for expert in experts]).cpu(),
        "idf": routing.idf.cpu(),
    }
    for number, expert in enumerate(experts):
        tensors |= {f"{EXPERT}{number}.{n}": t.cpu() for n, t in expert.tensors.items()}
    if with_projection:
        tensors["projection.down"] = routing.projection.down.cpu()
        tensors["projection.up"] = routing.projection.up.cpu()
    tensors["member_of"] = torch.tensor(expert_of, dtype=torch.int64)
    metadata = {
        "shape": json.dumps(asdict(routing.shape), sort_keys=True),
        "limit": repr(routing.limit),
        "residual": json.dumps(routing.projection.is_residual),
    }
    return FORMAT.pack(llm, gate, rows, tensors, metadata)


def pack_rows(llm: BaseLLM, gate: str, rows: Rows) -> Artifact:
    """Packs edits without experts, for a new lane model, which does not change experts."""
    return FORMAT.pack(llm, gate, rows)


def read_artifact(
    artifact: Artifact,
    llm: BaseLLM,
    edits: tuple[str, ...],
    seq: int,
    *,
    gate: str,
    expected: Shape | None,
    before: SharedRouting | None,
) -> Packed:
    """Reads an artifact that `pack` made.

    Args:
        artifact: of a commit.
        llm: of the replica.
        edits: of the commit.
        seq: of the commit.
        gate: digest of the lane model; empty without one.
        expected: shape that the lane's configuration gives; None in processes that cannot tell.
        before: routing of the lane before this commit; has the projection if the artifact has none.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: the artifact does not fit.
    """
    shape = _shape_in(artifact, expected, seq)
    tensors = artifact.tensors
    num = len(tensors["anchors"]) if "anchors" in tensors else 0
    dtype = next((t.dtype for n, t in tensors.items() if n.startswith(f"{EXPERT}0.")), None)
    size = len(tensors["idf"]) if "idf" in tensors else 0
    specs = {
        "anchors": TensorSpec((num, shape.d), torch.float32),
        "idf": TensorSpec((size,), torch.float32),
        "member_of": TensorSpec((len(edits),), torch.int64),
    }
    for number in range(num):
        expert_specs = shape.specs(dtype or torch.float32)
        specs |= {f"{EXPERT}{number}.{name}": spec for name, spec in expert_specs.items()}
    if before is None or "projection.down" in tensors:
        specs["projection.down"] = TensorSpec((shape.d_p, shape.d), torch.float32)
        specs["projection.up"] = TensorSpec((shape.d, shape.d_p), torch.float32)
    rows = FORMAT.read(artifact, llm, gate, edits, seq, others=specs)
    owners = tensors["member_of"].tolist()
    if not num or set(owners) != set(range(num)):
        raise ArtifactCorruptError(f"commit {seq} has experts that learned no edit.", seq=seq)
    projection = before.projection if before is not None else None
    if projection is None or "projection.down" in tensors:
        is_residual = bool(json.loads(artifact.metadata["residual"]))
        stored = Projection(tensors["projection.down"], tensors["projection.up"], is_residual)
        projection = stored.to(llm.device)
    limit = float(artifact.metadata["limit"])
    routing = SharedRouting.of(shape, projection, limit, tensors["idf"].to(llm.device))
    experts = [
        LaneExpert.of(
            shape,
            {name: tensors[f"{EXPERT}{number}.{name}"] for name in shape.sizes()},
            tensors["anchors"][number],
        )
        for number in range(num)
    ]
    return Packed(rows, routing, tuple(experts), tuple(owners))


def read_rows(
    artifact: Artifact, llm: BaseLLM, edits: tuple[str, ...], seq: int, *, gate: str
) -> Rows:
    """Reads an artifact that `pack_rows` made; raises as `read_artifact`."""
    return FORMAT.read(artifact, llm, gate, edits, seq)


def _shape_in(artifact: Artifact, expected: Shape | None, seq: int) -> Shape:
    try:
        shape = Shape(**json.loads(artifact.metadata["shape"]))
        float(artifact.metadata["limit"])
        json.loads(artifact.metadata["residual"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorruptError(
            f"commit {seq} does not describe the shape of its experts: {error}.", seq=seq
        ) from error
    if expected is not None and shape != expected:
        raise ArtifactCorruptError(
            f"commit {seq} has experts of a shape that differs from the lane's configuration.",
            seq=seq,
        )
    return shape
