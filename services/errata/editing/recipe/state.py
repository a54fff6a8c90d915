"""What a replica holds for a RECIPE lane: the lane model, and a key and a prompt for each edit.

The lane model is the gate; keys r_k (n, d_r) and prompts p_k (n, S, l, d) are in the inventory.
"""

from __future__ import annotations

from errata.editing.artifact import Artifact
from errata.editing.lane.repository import Rows
from errata.editing.lane.row_format import RowFormat
from errata.editing.model.causal_lm import BaseLLM
from errata.editing.retriever.gate import Gate
from errata.errors import ArtifactCorruptError

FORMAT = RowFormat(method="recipe", values="prompts")


def pack(lane_model: str, llm: BaseLLM, rows: Rows) -> Artifact:
    """The artifact of a fit: `keys` (u, d_r), `prompts` (u, S, l, d), fp32; `facts` as bytes.

    Args:
        lane_model: digest of the lane model that encoded the rows.
        llm: the base model.
        rows: of the edits.
    """
    return FORMAT.pack(llm, lane_model, rows)


def read_rows(
    artifact: Artifact, llm: BaseLLM, gate: Gate | None, edits: tuple[str, ...], seq: int
) -> Rows:
    """Reads the output of `pack`.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: the artifact does not fit, or the lane has
            no lane model.
    """
    if gate is None:
        raise ArtifactCorruptError(
            f"entry {seq} carries edits, but the lane has no lane model.", seq=seq
        )
    shape = gate.lane_model().shape
    return FORMAT.read(
        artifact,
        llm,
        gate.digest,
        edits,
        seq,
        key_width=shape.d_r,
        value_size=shape.prompt_size,
    )
