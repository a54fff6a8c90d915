"""What the writer keeps of an AdaPLE lane: keys of earlier batches, for `covariance=accumulate`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.artifact import Artifact
from errata.errors import ArtifactCorruptError


def key_name(layer: int) -> str:
    """Name of a layer's keys in the memory artifact, (d_ff, u) fp32."""
    return f"layer.{layer}.keys"


class AdapleMemory:
    """Keys of committed edits that are not reverted."""

    def __init__(self, config: AdapleConfig) -> None:
        """Starts empty."""
        self._config = config
        self._keys: dict[str, dict[str, Tensor]] = {}  # edit → tensor name → (d_ff,)

    def add(self, edits: tuple[str, ...], memory: Artifact) -> None:
        """Adds the keys of a committed batch; column j belongs to edit j.

        Raises:
            ArtifactCorruptError: the columns are not the edits'.
        """
        if any(tensor.shape[-1] != len(edits) for tensor in memory.tensors.values()):
            raise ArtifactCorruptError(
                f"the memory does not hold one key for each of {len(edits)} edits."
            )
        for column, edit in enumerate(edits):
            self._keys[edit] = {name: tensor[:, column] for name, tensor in memory.tensors.items()}

    def remove(self, edits: Sequence[str]) -> None:
        """Forgets reverted edits; unknown names are ignored, for they left nothing behind."""
        for edit in edits:
            self._keys.pop(edit, None)

    def gram(self, layer: int, without: Collection[str] = ()) -> Tensor | None:
        """ΣKτKτᵀ of a layer, (d_ff, d_ff) float64; None without earlier keys or if C is fixed.

        Args:
            layer: of the model.
            without: edits that are about to be replaced: what they wrote need not be kept.
        """
        kept = [keys[key_name(layer)] for edit, keys in self._keys.items() if edit not in without]
        if self._config.covariance == "fixed" or not kept:
            return None
        keys = torch.stack(kept, dim=-1)
        return keys.double() @ keys.double().T
