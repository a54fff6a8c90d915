"""A gated mixture of LoRAs at projections of FFNs (ELDER eq. 3).

Rows that one mixture claims are computed together: two products over all its LoRAs, whatever
their gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from errata.editing.effects.columns import Numbering, widened
from errata.editing.effects.effect import BatchEffect, Effect, EffectHooks, EffectTable, TableShape
from errata.editing.model.causal_lm import CausalLM

Place = tuple[int, Literal["up", "down"]]
"""A projection of an FFN: its layer, and which of the two."""


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
        banks: place → its LoRAs, in the order of the rows of an effect's gates.
    """

    num_experts: int
    banks: Mapping[Place, LoraBank]


@dataclass(frozen=True, eq=False, slots=True)
class GatedMixture(Effect):
    """A mixture with the gates of one row.

    Attributes:
        mixture: whose LoRAs are mixed in; rows share it.
        gates: (places, N) fp32, weight of each LoRA at each place of the mixture.
    """

    mixture: Mixture
    gates: Tensor

    def new_table(self, shape: TableShape) -> MixtureTable:
        """An empty table of gates."""
        return MixtureTable(shape)


@dataclass(frozen=True, eq=False, slots=True)
class MixtureRows:
    """The rows of a batch that one mixture claims.

    Attributes:
        mixture: the one that claims them.
        rows: (n,) int64, ascending.
        gates: (n, places, N), in the model's dtype.
    """

    mixture: Mixture
    rows: Tensor
    gates: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class MixtureBatch(BatchEffect):
    """The mixtures of one pass.

    Attributes:
        places: place → the mixtures that claim rows there, each with the place's number among
            those of its gates.
    """

    places: Mapping[Place, tuple[tuple[int, MixtureRows], ...]]

    def new_hooks(self, model: CausalLM) -> MixtureHooks:
        """Hooks on projections of FFNs."""
        return MixtureHooks(model)


class MixtureTable(EffectTable[GatedMixture]):
    """The mixtures of the rows that run, and their gates."""

    def __init__(self, shape: TableShape) -> None:
        """No row has one."""
        self._device, self._dtype = shape.device, shape.dtype
        self._mixture = torch.full((shape.num_rows,), -1)  # numbers of `_mixtures`
        self._gates = torch.zeros(shape.num_rows, 0, device=shape.device, dtype=shape.dtype)
        self._mixtures = Numbering[Mixture]()

    def put(self, row: int, effect: GatedMixture) -> None:
        """Gives a free row a mixture and its gates."""
        flat = effect.gates.reshape(-1).to(self._device, self._dtype)
        self._gates = widened(self._gates, len(flat))
        self._gates[row, : len(flat)] = flat
        self._mixture[row] = self._mixtures.take(effect.mixture)

    def free(self, row: int) -> None:
        """Takes the mixture from a row."""
        self._mixtures.give_back(int(self._mixture[row]))
        self._mixture[row] = -1

    def move(self, source: int, target: int) -> None:
        """Moves a row's mixture to a free row."""
        for column in (self._mixture, self._gates):
            column[target] = column[source]
        self._mixture[source] = -1

    def view(self, first: int, num_rows: int) -> MixtureBatch | None:
        """Rows by place and mixture."""
        places: dict[Place, tuple[tuple[int, MixtureRows], ...]] = {}
        numbers = self._mixture[first : first + num_rows]
        for number in sorted(set(numbers.tolist()) - {-1}):
            mixture = self._mixtures[number]
            rows = (numbers == number).nonzero().squeeze(-1).to(self._device)
            shape = (len(rows), len(mixture.banks), mixture.num_experts)
            gates = self._gates[first + rows, : shape[1] * shape[2]].reshape(shape)
            claimed = MixtureRows(mixture, rows, gates)
            for index, place in enumerate(mixture.banks):
                places[place] = (*places.get(place, ()), (index, claimed))
        return MixtureBatch(places) if places else None


class MixtureHooks(EffectHooks[MixtureBatch]):
    """Adds gated LoRAs to the output of projections."""

    def __init__(self, model: CausalLM) -> None:
        """No hook is registered."""
        self._model = model
        self._batch: MixtureBatch | None = None
        self._places: set[Place] = set()

    def register(self, batch: MixtureBatch) -> None:
        """Hooks the projections that this batch has mixtures at."""
        for place in batch.places.keys() - self._places:
            layer, part = place
            module = self._model.down(layer) if part == "down" else self._model.up(layer)
            module.register_forward_hook(partial(self._mix, place))
            self._places.add(place)

    def follow(self, batch: MixtureBatch | None) -> None:
        """Applies the mixtures of `batch` to the passes that follow."""
        self._batch = batch

    def _mix(self, place: Place, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self._batch is not None:
            for index, claimed in self._batch.places.get(place, ()):
                bank = claimed.mixture.banks[place]
                add_mixture(self._model, place, output, args[0], claimed, bank, index)
        return output


def add_mixture(
    model: CausalLM,
    place: Place,
    output: Tensor,
    inputs: Tensor,
    claimed: MixtureRows,
    bank: LoraBank,
    index: int,
) -> None:
    """ELDER eq. 3, y_t += (α/r) Σ_i s_i B_i A_i v_t, for the claimed rows: two products in all.

    Args:
        model: gives the shapes of projections.
        place: of the projection.
        output: of the projection; changed in place.
        inputs: of the projection, v.
        claimed: which rows, and their gates.
        bank: the LoRAs of this place.
        index: which of the gates' places this is.
    """
    output, inputs = model.by_row(output), model.by_row(inputs)  # (B, T, …)
    if place[1] == "up":
        output = model.up_part(output)
    num_rows, length = len(claimed.rows), inputs.shape[1]
    low = inputs.index_select(0, claimed.rows) @ bank.a.T  # (n, T, N·r)
    experts = low.reshape(num_rows, length, claimed.mixture.num_experts, -1)
    gated = experts * claimed.gates[:, index, None, :, None]
    output.index_add_(0, claimed.rows, gated.reshape(low.shape) @ bank.b.T)
