"""Weighted experts beside the frozen FFN of a layer (LEMoE eq. 4).

Rows are sorted by expert: one pass over the rows of each distinct expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from errata.editing.effects.columns import Numbering, widened
from errata.editing.effects.effect import BatchEffect, Effect, EffectHooks, EffectTable, TableShape
from errata.editing.model.causal_lm import CausalLM


@dataclass(frozen=True, eq=False, slots=True)
class Expert:
    """An FFN beside the frozen one of a layer, with the frozen one's gate and activation.

    Attributes:
        layer: 0-based.
        up: (h, d); where the FFN has a gate, h = d_ff.
        down: (d, h).
    """

    layer: int
    up: Tensor
    down: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class WeightedExperts(Effect):
    """The experts of one row, with their weights.

    Attributes:
        experts: each with its weight; rows share experts.
    """

    experts: tuple[tuple[Expert, float], ...]

    def new_table(self, shape: TableShape) -> ExpertTable:
        """An empty table of experts and weights."""
        return ExpertTable(shape)


@dataclass(frozen=True, eq=False, slots=True)
class ExpertRows:
    """The rows of a batch that go through experts of one layer, sorted by expert.

    Attributes:
        experts: those that occur.
        sizes: how many rows each of them has.
        rows: (n,) int64; those of the first expert, then those of the second, …
        gates: (n, 1, 1), in the model's dtype.
    """

    experts: tuple[Expert, ...]
    sizes: tuple[int, ...]
    rows: Tensor
    gates: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class ExpertBatch(BatchEffect):
    """The experts of one pass.

    Attributes:
        layers: layer → the rows that go through experts there.
    """

    layers: Mapping[int, ExpertRows]

    def new_hooks(self, model: CausalLM) -> ExpertHooks:
        """Hooks on FFNs."""
        return ExpertHooks(model)


class ExpertTable(EffectTable[WeightedExperts]):
    """The experts of the rows that run, and their weights."""

    def __init__(self, shape: TableShape) -> None:
        """No row has one."""
        self._device = shape.device
        self._expert = torch.full((shape.num_rows, 0), -1)  # numbers of `_experts`
        self._gate = torch.zeros(shape.num_rows, 0, device=shape.device, dtype=shape.dtype)
        self._experts = Numbering[Expert]()

    def put(self, row: int, effect: WeightedExperts) -> None:
        """Gives a free row experts and their weights."""
        self._expert = widened(self._expert, len(effect.experts), -1)
        self._gate = widened(self._gate, len(effect.experts))
        for column, (expert, weight) in enumerate(effect.experts):
            self._expert[row, column] = self._experts.take(expert)
            self._gate[row, column] = weight

    def free(self, row: int) -> None:
        """Takes the experts from a row."""
        for number in self._expert[row].tolist():
            if number >= 0:
                self._experts.give_back(number)
        self._expert[row] = -1

    def move(self, source: int, target: int) -> None:
        """Moves a row's experts to a free row."""
        for column in (self._expert, self._gate):
            column[target] = column[source]
        self._expert[source] = -1

    def view(self, first: int, num_rows: int) -> ExpertBatch | None:
        """Rows by layer, sorted by expert."""
        numbers = self._expert[first : first + num_rows]
        rows, columns = (numbers >= 0).nonzero(as_tuple=True)
        if not len(rows):
            return None
        flat = numbers[rows, columns]
        order = flat.argsort(stable=True)
        rows, columns = rows[order], columns[order]
        distinct, sizes = flat[order].unique_consecutive(return_counts=True)
        experts = [self._experts[number] for number in distinct.tolist()]
        counts = sizes.tolist()
        parts = list(zip(experts, rows.split(counts), columns.split(counts), strict=True))
        layers = {}
        for layer in sorted({expert.layer for expert in experts}):
            here = [part for part in parts if part[0].layer == layer]
            where = torch.cat([part[1] for part in here])
            column = torch.cat([part[2] for part in here])
            layers[layer] = ExpertRows(
                tuple(part[0] for part in here),
                tuple(len(part[1]) for part in here),
                where.to(self._device),
                self._gate[first + where, column][:, None, None],
            )
        return ExpertBatch(layers)


class ExpertHooks(EffectHooks[ExpertBatch]):
    """Adds weighted experts to the output of FFNs."""

    def __init__(self, model: CausalLM) -> None:
        """No hook is registered."""
        self._model = model
        self._batch: ExpertBatch | None = None
        self._layers: set[int] = set()

    def register(self, batch: ExpertBatch) -> None:
        """Hooks the FFNs that this batch has experts at."""
        for layer in batch.layers.keys() - self._layers:
            self._model.hook_ffn(layer, partial(self._add, layer))
            self._layers.add(layer)

    def follow(self, batch: ExpertBatch | None) -> None:
        """Applies the experts of `batch` to the passes that follow."""
        self._batch = batch

    def _add(self, layer: int, inputs: Tensor, output: Tensor) -> None:
        claimed = None if self._batch is None else self._batch.layers.get(layer)
        if claimed is not None:
            add_experts(self._model, layer, output, inputs, claimed)


def add_experts(
    model: CausalLM, layer: int, output: Tensor, inputs: Tensor, claimed: ExpertRows
) -> None:
    """LEMoE eq. 4, h(x) += Σ_i g_i f_i(x): one pass over each distinct expert's rows.

    Args:
        model: supplies gate and activation.
        layer: of the FFN.
        output: (B, T, d), FFN₀(x); changed in place.
        inputs: (B, T, d), x.
        claimed: rows sorted by expert.
    """
    chosen = inputs.index_select(0, claimed.rows)  # (n, T, d)
    gate, activation = model.gate(layer), model.activation(layer)
    opened = None if gate is None else activation(gate(chosen))
    answers = []
    start = 0
    for expert, size in zip(claimed.experts, claimed.sizes, strict=True):
        rows = slice(start, start + size)
        raised = chosen[rows] @ expert.up.T
        inner = activation(raised) if opened is None else opened[rows] * raised
        answers.append(inner @ expert.down.T)
        start += size
    weighted = (torch.cat(answers) * claimed.gates).to(output.dtype)
    output.index_add_(0, claimed.rows, weighted)
