"""The contents of an AdaPLE lane in a snapshot: each commit's factors, never the sum.

A replica rebuilds the weights from the base in order, so that a later reversal of any commit gives
the same bits as on a replica that has applied every entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.packing import Committed, read, repack
from errata.editing.artifact import Artifact
from errata.editing.lane.commits import Commit
from errata.editing.lane.pages import LaneTable, units_of
from errata.editing.model.causal_lm import CausalLM
from errata.errors import ArtifactCorruptError

_UNIT = "commit."
_ABOUT = "about"  # UTF-8 of JSON, so that a commit's facts lie in the commit's page


def dump(
    model: CausalLM, config: AdapleConfig, commits: Mapping[int, Committed]
) -> LaneTable | None:
    """The commits with an edit that is not reverted, as a table; None if there are none."""
    tensors: dict[str, Tensor] = {}
    kept = [(seq, commit) for seq, commit in commits.items() if bool(commit.present.any())]
    for number, (seq, commit) in enumerate(kept):
        artifact = repack(model, config, commit)
        about = {
            "seq": seq,
            "edits": list(commit.edits),
            "present": commit.present.tolist(),
            "metadata": artifact.metadata,
        }
        text = json.dumps(about, sort_keys=True).encode()
        own = {**artifact.tensors, _ABOUT: torch.frombuffer(bytearray(text), dtype=torch.uint8)}
        tensors |= {f"{_UNIT}{number}.{name}": tensor for name, tensor in own.items()}
    return LaneTable((), Artifact(tensors, {}), units=_UNIT) if kept else None


def restore(
    table: LaneTable | None, model: CausalLM, config: AdapleConfig, layers: Sequence[int]
) -> dict[int, Committed]:
    """The commits that `dump` put into a table, by position.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: the table does not fit the lane or the model.
    """
    commits, device = {}, model.device
    for tensors in [] if table is None else units_of(table):
        about = json.loads(bytes(tensors.pop(_ABOUT).tolist()))
        edits = tuple(about["edits"])
        commit = Commit(about["seq"], edits, Artifact(tensors, about["metadata"]))
        present = torch.tensor(about["present"], dtype=torch.bool, device=device)
        if present.shape != (len(edits),):
            raise ArtifactCorruptError(f"commit {commit.seq} has edits without a state.")
        found = read(commit, model, config, layers)
        commits[commit.seq] = replace(found, present=present, acting=present)
    return commits
