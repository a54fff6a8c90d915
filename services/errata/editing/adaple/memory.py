"""The writer's memory of an AdaPLE lane: keys of earlier batches (`covariance=accumulate`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.artifact import Artifact
from errata.editing.lane.commits import Commit, LaneEntry, Restoration, Reversal
from errata.editing.lane.pages import LaneTable
from errata.errors import ArtifactCorruptError


def key_name(layer: int) -> str:
    """Name of a layer's keys in the memory artifact, (d_ff, u) fp32."""
    return f"layer.{layer}.keys"


class AdapleMemory:
    """Keys of committed edits that are not reverted; immutable."""

    def __init__(
        self, config: AdapleConfig, keys: Mapping[str, Mapping[str, Tensor]] | None = None
    ) -> None:
        """Holds `keys`: edit → tensor name → (d_ff,); none by default."""
        self._config = config
        self._keys = keys or {}

    def after(self, entry: LaneEntry) -> AdapleMemory:
        """The memory after an entry of the lane; column j of a commit's memory belongs to edit j.

        Raises:
            ArtifactCorruptError: a commit's memory does not have one column for each edit.
        """
        match entry:
            case Commit(edits=edits, memory=Artifact(tensors=tensors)):
                if any(tensor.shape[-1] != len(edits) for tensor in tensors.values()):
                    raise ArtifactCorruptError(
                        f"the memory does not hold one key for each of {len(edits)} edits."
                    )
                added = {
                    edit: {name: tensor[:, column] for name, tensor in tensors.items()}
                    for column, edit in enumerate(edits)
                }
                return AdapleMemory(self._config, {**self._keys, **added})
            case Reversal(edits=edits):
                reverted = frozenset(edits)
                active = {edit: keys for edit, keys in self._keys.items() if edit not in reverted}
                return AdapleMemory(self._config, active)
            case Restoration(dump=dump):
                return AdapleMemory(self._config, _restored(dump.memory))
            case _:
                return self

    def dump(self) -> LaneTable | None:
        """The keys as a table, one row for each edit; None if there are none."""
        if not self._keys:
            return None
        names = next(iter(self._keys.values()))
        rows = {name: torch.stack([keys[name] for keys in self._keys.values()]) for name in names}
        return LaneTable(tuple(self._keys), Artifact(rows, {}), frozenset(rows))

    def key(self, edit: str, layer: int) -> Tensor:
        """A committed edit's key in a layer, (d_ff,) fp32."""
        return self._keys[edit][key_name(layer)]

    def gram(self, layer: int, without: Collection[str] = ()) -> Tensor | None:
        """ΣKτKτᵀ of a layer, (d_ff, d_ff) float64; None without earlier keys or if C is fixed.

        Args:
            layer: of the model.
            without: edits that are about to be replaced; a fit need not preserve what they wrote.
        """
        kept = [keys[key_name(layer)] for edit, keys in self._keys.items() if edit not in without]
        if self._config.covariance == "fixed" or not kept:
            return None
        keys = torch.stack(kept, dim=-1)
        return keys.double() @ keys.double().T


def _restored(table: LaneTable | None) -> dict[str, dict[str, Tensor]]:
    if table is None:
        return {}
    tensors = table.artifact.tensors.items()
    return {
        edit: {name: tensor[row] for name, tensor in tensors}
        for row, edit in enumerate(table.edits)
    }
