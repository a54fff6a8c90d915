"""The edited matrices of a model: base weights, ordered contributions, and their sum.

All lanes that change weights share this ledger, because floating-point sums depend on order:
W = (((W₀ + Δ₁) + Δ₂) + …) in fp32, with contributions in order of (seq, lane), rounded to the
model's dtype once at the end. Appending and rebuilding give the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from errata.editing.artifact import tensor_bytes
from errata.editing.model.causal_lm import CausalLM
from errata.errors import PreconditionError

Undo = Callable[[], None]
"""Reverts a change, bit for bit; valid until the next change."""

Swap = Callable[[], Undo]
"""Applies a prepared change."""

# Position of a contribution: the commit's seq, then the lane; a seq belongs to one lane.
ContributionId = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Contribution:
    """The change of one commit to the down projections of some layers.

    Attributes:
        layers: the layers that `delta` accepts.
        delta: layer → dense (d, d_ff) fp32 on the model's device; the same bits at every call.
    """

    layers: tuple[int, ...]
    delta: Callable[[int], Tensor]


class EditedWeights:
    """Base weights and sums of the FFN down projections that edits have changed.

    Memory: two copies of each changed matrix, the base in the model's dtype and the sum in fp32.
    """

    def __init__(self, model: CausalLM) -> None:
        """Starts without contributions; `model` must have its base weights."""
        self._model = model
        self._base: dict[int, Tensor] = {}  # model's dtype: reverting restores its bits
        self._sum: dict[int, Tensor] = {}  # (d, d_ff) fp32
        self._contributions: dict[ContributionId, Contribution] = {}
        self._version = 0
        self._reserved: set[int] = set()

    def reserve(self, layers: Iterable[int]) -> None:
        """Notes layers that a lane may change."""
        self._reserved.update(layers)

    def base(self) -> dict[int, Tensor]:
        """The base weights, (d, d_ff), of all reserved layers, which later changes leave alone."""
        return {
            layer: self._base[layer]
            if layer in self._base
            else self._model.down_weight(layer).clone()
            for layer in sorted(self._reserved)
        }

    def prepare(self, changes: Mapping[ContributionId, Contribution | None]) -> Swap:
        """Computes the weights after `changes` without changing the model.

        Args:
            changes: contributions to add or to replace; None removes one.

        Returns:
            A callable that applies the new weights in place. Its result reverts them, before any
            other change.

        Raises:
            PreconditionError: (from the callable) another change was applied in the meantime.
        """
        after = {key: value for key, value in self._contributions.items() if key not in changes}
        after.update({key: value for key, value in changes.items() if value is not None})
        after = dict(sorted(after.items()))
        last = max(self._contributions, default=None)
        # A change can be added to the sum only if it follows all contributions in it.
        appends = last is None or all(key > last for key in changes)
        touched: set[int] = set()
        for key, change in changes.items():
            for contribution in (change, self._contributions.get(key)):
                touched.update(contribution.layers if contribution else ())
        new = {layer: self._summed(layer, after, changes, appends) for layer in sorted(touched)}
        version = self._version

        def swap() -> Undo:
            if version != self._version:
                raise PreconditionError(
                    "the weights changed after this change was prepared; prepare it again.",
                    prepared_at=version,
                    now=self._version,
                )
            for layer in new:
                self._base.setdefault(layer, self._model.down_weight(layer).clone())
            held = {layer: self._sum.get(layer, self._base[layer].float()) for layer in new}
            before = self._contributions
            self._put(new, after)

            def undo() -> None:
                self._put(held, before)

            return undo

        return swap

    def digest(self, layers: Iterable[int] | None = None) -> str:
        """SHA-256, hex, of the model's current weights, layer by layer.

        Args:
            layers: the layers to hash; by default those of all contributions.
        """
        if layers is None:
            layers = {layer for item in self._contributions.values() for layer in item.layers}
        state = hashlib.sha256()
        for layer in sorted(layers):
            weight = self._model.down_weight(layer)
            state.update(f"{layer}|{weight.dtype}|{tuple(weight.shape)}|".encode())
            state.update(tensor_bytes(weight))
        return state.hexdigest()

    def _put(
        self, sums: Mapping[int, Tensor], contributions: Mapping[ContributionId, Contribution]
    ) -> None:
        for layer, total in sums.items():
            self._sum[layer] = total
            is_base = not any(layer in item.layers for item in contributions.values())
            self._model.set_down_weight(layer, self._base[layer] if is_base else total)
        self._contributions = dict(contributions)
        self._version += 1

    def _summed(
        self,
        layer: int,
        after: Mapping[ContributionId, Contribution],
        changes: Mapping[ContributionId, Contribution | None],
        appends: bool,
    ) -> Tensor:
        if appends and layer in self._sum:
            total = self._sum[layer].clone()
            pending = {key: after[key] for key in after if key in changes}
        else:
            base = self._base.get(layer)
            total = (self._model.down_weight(layer) if base is None else base).float().clone()
            pending = dict(after)
        for contribution in pending.values():
            if layer in contribution.layers:
                total += contribution.delta(layer)
        return total
