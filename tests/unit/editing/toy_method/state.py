"""What a replica holds of a toy lane: a bias for each edit, (d,), and nothing that edits share."""

from __future__ import annotations

from errata.editing.artifact import Artifact
from errata.editing.lane.repository import Rows
from errata.editing.lane.row_format import RowFormat
from errata.editing.model.causal_lm import BaseLLM

FORMAT = RowFormat(method="toy", values="biases")


def pack(llm: BaseLLM, rows: Rows) -> Artifact:
    return FORMAT.pack(llm, "", rows)
