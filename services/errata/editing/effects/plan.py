"""What each row of a batch gets beside the base model: a prefix, a mixture of LoRAs, experts.

A `RowPlan` is made once, when a request is routed, and stays with its row for life (P6). The rows'
plans lie in a `PlanTable`, as tensors; a `BatchPlan` is the part of the table that one forward
pass needs, found with tensor operations and kept for as long as the same rows run together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

Place = tuple[int, Literal["up", "down"]]
"""A projection of an FFN: its layer, and which of the two."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False, slots=True)
class Prefix:
    """A continuous prompt.

    Attributes:
        embeddings: (l, d), in place of token embeddings.
        after: how many of the prompt's tokens come before it: 0, or 1 to follow the BOS token.
        deep: layer → (l, d), added to what enters that block at the prompt's positions.
    """

    embeddings: Tensor
    after: int = 0
    deep: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class LoraBank:
    """The N LoRAs of one projection, side by side.

    Attributes:
        a: (N·r, d_in), the A_i below one another.
        b: (d_out, N·r), the B_i next to one another, scaled by α/r.
    """

    a: Tensor
    b: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Mixture:
    """One version of a lane's mixture of LoRAs.

    Attributes:
        num_experts: N.
        banks: place → its LoRAs, in the order of the rows of a plan's gates.
    """

    num_experts: int
    banks: Mapping[Place, LoraBank]


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
class RowPlan:
    """What one request gets; the default is the base model.

    Attributes:
        prefix: comes before the prompt, or behind its first token.
        mixture: whose LoRAs are mixed in; needs `gates`.
        gates: (places, N) fp32, weight of each LoRA at each place of the mixture.
        experts: each with its weight.
        edits: names of the edits that claimed the request, newest first.
        cut: claims were decided on the end of the prompt alone, for all of it was too long.
    """

    prefix: Prefix | None = None
    mixture: Mixture | None = None
    gates: Tensor | None = None
    experts: tuple[tuple[Expert, float], ...] = ()
    edits: tuple[str, ...] = ()
    cut: bool = False

    @property
    def num_prefix(self) -> int:
        """Positions that the prefix takes."""
        return 0 if self.prefix is None else len(self.prefix.embeddings)


BASE = RowPlan()
"""The plan of a request that no edit claims."""


@dataclass(frozen=True, eq=False, slots=True)
class MixtureRows:
    """The rows of a batch that one mixture claims.

    Attributes:
        mixture: whose.
        rows: (n,) int64, ascending.
        gates: (n, places, N), in the model's dtype.
    """

    mixture: Mixture
    rows: Tensor
    gates: Tensor


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
class BatchPlan:
    """What the hooks read during one forward pass.

    Attributes:
        mixtures: place → the mixtures that claim rows there.
        experts: layer → the rows that go through experts there.
        is_prefix: (B, T) bool, or None if no position of this pass belongs to a prefix.
        prefix: (B, T, d), what those positions hold; None with `is_prefix`.
        deep: layer → (B, T, d), what is added there to what enters the block.
    """

    mixtures: Mapping[Place, tuple[tuple[int, MixtureRows], ...]] = field(default_factory=dict)
    experts: Mapping[int, ExpertRows] = field(default_factory=dict)
    is_prefix: Tensor | None = None
    prefix: Tensor | None = None
    deep: Mapping[int, Tensor] = field(default_factory=dict)


class _Registry(Generic[T]):
    """Numbers for objects that several rows share; a number is free again after its last row."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}  # id → number
        self._items: dict[int, T] = {}
        self._uses: dict[int, int] = {}

    def __getitem__(self, number: int) -> T:
        return self._items[number]

    def take(self, item: T) -> int:
        number = self._numbers.get(id(item))
        if number is None:
            number = next(n for n in range(len(self._items) + 1) if n not in self._items)
            self._numbers[id(item)], self._items[number], self._uses[number] = number, item, 0
        self._uses[number] += 1
        return number

    def give_back(self, number: int) -> None:
        self._uses[number] -= 1
        if not self._uses[number]:
            del self._uses[number], self._numbers[id(self._items.pop(number))]


class PlanTable:
    """The plans of the rows that run, as tensors; rows keep their place until they are moved.

    Numbers that steer (ids, lengths) lie in host memory, what enters products on the device.
    """

    def __init__(self, num_rows: int, width: int, *, device: torch.device, dtype: torch.dtype):
        """All rows are free.

        Args:
            num_rows: rows of the table.
            width: d of the model.
            device: the model's.
            dtype: the model's.
        """
        self._device, self._dtype = device, dtype
        self._prefix = torch.zeros(num_rows, 0, width, device=device, dtype=dtype)
        self._deep: dict[int, Tensor] = {}  # as `_prefix`, by layer
        self._num_prefix = torch.zeros(num_rows, dtype=torch.int64)
        self._prefix_after = torch.zeros(num_rows, dtype=torch.int64)
        self._mixture = torch.full((num_rows,), -1)
        self._gates = torch.zeros(num_rows, 0, device=device, dtype=dtype)
        self._expert = torch.full((num_rows, 0), -1)
        self._expert_gate = torch.zeros(num_rows, 0, device=device, dtype=dtype)
        self._mixtures = _Registry[Mixture]()
        self._experts = _Registry[Expert]()
        self._views: dict[tuple[int, int], BatchPlan] = {}

    def put(self, row: int, plan: RowPlan) -> None:
        """Lets a free row carry a plan."""
        self._views.clear()
        if plan.prefix is not None:
            self._put_prefix(row, plan.prefix)
        if plan.mixture is not None and plan.gates is not None:
            flat = plan.gates.reshape(-1).to(self._device, self._dtype)
            self._gates = _widened(self._gates, len(flat), 0.0)
            self._gates[row, : len(flat)] = flat
            self._mixture[row] = self._mixtures.take(plan.mixture)
        if plan.experts:
            self._expert = _widened(self._expert, len(plan.experts), -1)
            self._expert_gate = _widened(self._expert_gate, len(plan.experts), 0.0)
            for column, (expert, gate) in enumerate(plan.experts):
                self._expert[row, column] = self._experts.take(expert)
                self._expert_gate[row, column] = gate

    def free(self, row: int) -> None:
        """Takes the plan from a row."""
        self._views.clear()
        if self._mixture[row] >= 0:
            self._mixtures.give_back(int(self._mixture[row]))
        for number in self._expert[row].tolist():
            if number >= 0:
                self._experts.give_back(number)
        self._mixture[row] = -1
        self._expert[row] = -1
        self._num_prefix[row] = 0

    def move(self, source: int, target: int) -> None:
        """Moves a row's plan to a free row."""
        self._views.clear()
        for column in (
            self._prefix,
            *self._deep.values(),
            self._num_prefix,
            self._prefix_after,
            self._mixture,
            self._gates,
            self._expert,
            self._expert_gate,
        ):
            column[target] = column[source]
        self._mixture[source] = -1
        self._expert[source] = -1
        self._num_prefix[source] = 0

    def token_index(self, first: int, positions: Tensor) -> Tensor:
        """Which token of each row's prompt a position holds; anything inside a prefix.

        Args:
            first: the batch's first row.
            positions: (B, T) int64 in host memory, counted with the prefix.

        Returns:
            (B, T) int64.
        """
        count, after = self._span(first, len(positions))
        return torch.where(positions < after, positions, positions - count)

    def view(self, first: int, num_rows: int) -> BatchPlan:
        """The plan of `num_rows` rows from `first` on, for a pass behind every prefix."""
        found = self._views.get((first, num_rows))
        if found is None:
            found = self._views[first, num_rows] = BatchPlan(
                self._mixture_rows(first, num_rows), self._expert_rows(first, num_rows)
            )
        return found

    def view_at(self, first: int, positions: Tensor) -> BatchPlan:
        """As `view`, for a pass over `positions`, (B, T) on the host, counted with the prefix."""
        num_rows = len(positions)
        shared = self.view(first, num_rows)
        count, after = self._span(first, num_rows)
        inside = (positions >= after) & (positions < after + count)
        if not bool(inside.any()):
            return shared
        index = (positions - after).clamp(0, self._prefix.shape[1] - 1).to(self._device)
        rows = torch.arange(first, first + num_rows, device=self._device)
        return BatchPlan(
            shared.mixtures,
            shared.experts,
            inside.to(self._device),
            self._prefix[rows[:, None], index],
            {layer: table[rows[:, None], index] for layer, table in self._deep.items()},
        )

    def _span(self, first: int, num_rows: int) -> tuple[Tensor, Tensor]:
        rows = slice(first, first + num_rows)
        return self._num_prefix[rows, None], self._prefix_after[rows, None]

    def _put_prefix(self, row: int, prefix: Prefix) -> None:
        length = len(prefix.embeddings)
        self._prefix = _longer(self._prefix, length)
        for layer in self._deep.keys() | prefix.deep.keys():
            table = self._deep.get(layer)
            self._deep[layer] = _longer(
                torch.zeros_like(self._prefix) if table is None else table, self._prefix.shape[1]
            )
            self._deep[layer][row] = 0  # whatever the row before it had there
        self._prefix[row, :length] = prefix.embeddings.to(self._device, self._dtype)
        for layer, added in prefix.deep.items():
            self._deep[layer][row, :length] = added.to(self._device, self._dtype)
        self._num_prefix[row] = length
        self._prefix_after[row] = prefix.after

    def _mixture_rows(
        self, first: int, num_rows: int
    ) -> dict[Place, tuple[tuple[int, MixtureRows], ...]]:
        found: dict[Place, tuple[tuple[int, MixtureRows], ...]] = {}
        numbers = self._mixture[first : first + num_rows]
        for number in numbers.unique().tolist():
            if number < 0:
                continue
            mixture = self._mixtures[number]
            rows = (numbers == number).nonzero().squeeze(-1).to(self._device)
            shape = (len(rows), len(mixture.banks), mixture.num_experts)
            gates = self._gates[first + rows, : shape[1] * shape[2]].reshape(shape)
            claimed = MixtureRows(mixture, rows, gates)
            for index, place in enumerate(mixture.banks):
                found[place] = (*found.get(place, ()), (index, claimed))
        return found

    def _expert_rows(self, first: int, num_rows: int) -> dict[int, ExpertRows]:
        numbers = self._expert[first : first + num_rows]
        if not bool((numbers >= 0).any()):
            return {}
        rows, columns = (numbers >= 0).nonzero(as_tuple=True)
        flat = numbers[rows, columns]
        order = flat.argsort(stable=True)
        rows, columns = rows[order], columns[order]
        distinct, sizes = flat[order].unique_consecutive(return_counts=True)
        experts = [self._experts[number] for number in distinct.tolist()]
        counts = sizes.tolist()
        parts = list(zip(experts, rows.split(counts), columns.split(counts), strict=True))
        found = {}
        for layer in sorted({expert.layer for expert in experts}):
            here = [part for part in parts if part[0].layer == layer]
            where = torch.cat([part[1] for part in here])
            column = torch.cat([part[2] for part in here])
            found[layer] = ExpertRows(
                tuple(part[0] for part in here),
                tuple(len(part[1]) for part in here),
                where.to(self._device),
                self._expert_gate[first + where, column][:, None, None],
            )
        return found


def _longer(table: Tensor, length: int) -> Tensor:
    """The prefixes' table, (rows, l, d), with room for at least `length` positions."""
    if length <= table.shape[1]:
        return table
    longer = table.new_zeros(len(table), length, table.shape[2])
    longer[:, : table.shape[1]] = table
    return longer


def _widened(table: Tensor, width: int, fill: float) -> Tensor:
    """The table with at least `width` columns."""
    if width <= table.shape[1]:
        return table
    wider = table.new_full((len(table), width), fill)
    wider[:, : table.shape[1]] = table
    return wider
