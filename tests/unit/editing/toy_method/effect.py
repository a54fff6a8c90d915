"""A bias that a row adds to the output of a layer's FFN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from errata.editing.effects.effect import BatchEffect, Effect, EffectHooks, EffectTable, TableShape
from errata.editing.model.causal_lm import CausalLM


@dataclass(frozen=True, eq=False, slots=True)
class Bias(Effect):
    """What one row adds.

    Attributes:
        layer: 0-based.
        bias: (d,), added at every position.
    """

    layer: int
    bias: Tensor

    def new_table(self, shape: TableShape) -> BiasTable:
        return BiasTable(shape)


@dataclass(frozen=True, eq=False, slots=True)
class BiasBatch(BatchEffect):
    """What the rows of one pass add.

    Attributes:
        layers: layer → rows, (n,) int64, and their biases, (n, 1, d).
    """

    layers: Mapping[int, tuple[Tensor, Tensor]]

    def new_hooks(self, model: CausalLM) -> BiasHooks:
        return BiasHooks(model)


class BiasTable(EffectTable[Bias]):
    """The biases of the rows that run."""

    def __init__(self, shape: TableShape) -> None:
        self._device, self._dtype = shape.device, shape.dtype
        self._layer = torch.full((shape.num_rows,), -1)
        self._bias = torch.zeros(
            shape.num_rows, shape.width, device=shape.device, dtype=shape.dtype
        )

    def put(self, row: int, effect: Bias) -> None:
        self._bias[row] = effect.bias.to(self._device, self._dtype)
        self._layer[row] = effect.layer

    def free(self, row: int) -> None:
        self._layer[row] = -1

    def move(self, source: int, target: int) -> None:
        for column in (self._layer, self._bias):
            column[target] = column[source]
        self._layer[source] = -1

    def view(self, first: int, num_rows: int) -> BiasBatch | None:
        layers = self._layer[first : first + num_rows]
        found = {}
        for layer in layers[layers >= 0].unique().tolist():
            rows = (layers == layer).nonzero().squeeze(-1).to(self._device)
            found[layer] = (rows, self._bias[first + rows][:, None])
        return BiasBatch(found) if found else None


class BiasHooks(EffectHooks[BiasBatch]):
    """Adds biases to what FFNs give."""

    def __init__(self, model: CausalLM) -> None:
        self._model = model
        self._batch: BiasBatch | None = None
        self._layers: set[int] = set()

    def register(self, batch: BiasBatch) -> None:
        for layer in batch.layers.keys() - self._layers:
            self._model.ffn(layer).register_forward_hook(partial(self._add, layer))
            self._layers.add(layer)

    def follow(self, batch: BiasBatch | None) -> None:
        self._batch = batch

    def _add(self, layer: int, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self._batch is None or layer not in self._batch.layers:
            return output
        rows, biases = self._batch.layers[layer]
        return output.index_add_(0, rows, biases.expand(-1, output.shape[1], -1))
