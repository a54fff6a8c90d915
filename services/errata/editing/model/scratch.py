"""A second model that shares all weights with a first one, except down projections.

A snapshot is restored in it while the first model goes on: only lanes that change weights need
memory of their own, that of the layers which they change.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from errata.editing.model.causal_lm import CausalLM


class ScratchLLM(CausalLM):
    """Has its own down projections; it computes nothing, because its modules are the first's."""

    def __init__(self, model: CausalLM, base: Mapping[int, Tensor]) -> None:
        """A view of `model` without edits.

        Args:
            model: may be edited meanwhile.
            base: the base weights of all layers that will be read or changed, (d, d_ff).
        """
        self.__dict__.update(model.__dict__)
        self._down = dict(base)

    def down_weight(self, layer: int) -> Tensor:
        """As `CausalLM.down_weight`; the first model's own if `base` had none."""
        return self._down[layer] if layer in self._down else super().down_weight(layer)

    def set_down_weight(self, layer: int, weight: Tensor) -> None:
        """Replaces this view's weight."""
        self._down[layer] = weight.to(self._down[layer].dtype)
