"""UltraEdit: one step from hidden states and gradients (Gu et al. 2025, arXiv:2505.14679).

At the tokens that predict the answer, each edited matrix has an input h and the gradient g of the
answer's loss by its output. Both are normalised by the mean and deviation of all edits so far
(lifelong normalisation): ĥ, ĝ. With v = −η(hᵀĥ)ĝ, the update is the ridge solution

    Δ = Vᵀ H (HᵀH + I)⁻¹,   rows of H and V: h and v of the batch's tokens,

with one forward and one backward pass, and no state but the moments. Nothing in it preserves
earlier edits or text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from errata.editing.lane.contract import LaneConfig, check_layer
from errata.editing.model.blocks import first_output
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import pad_right, positions, target_places, tokenise
from errata.evaluation.data.record import Record
from errata.evaluation.systems import EditOutcome
from errata.evaluation.systems.local import LocalModel

_EPSILON = 1e-8


class UltraEditConfig(LaneConfig):
    """Settings of UltraEdit.

    Attributes:
        layers: whose down projections are edited; empty edits those of the second half. Theirs:
            down, up and gate projections of some middle and late layers.
        step: η. Theirs: 1e-6 to 2e-6 for models of 7B to 8B; small models need larger steps.
        ridge: of the solve. Theirs: 1.
    """

    layers: tuple[int, ...] = ()
    step: float = Field(default=3e-3, gt=0.0)
    ridge: float = Field(default=1.0, gt=0.0)


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance of all rows so far (Welford; Chan et al. for batches).

    Attributes:
        mean, variance: (features,).
        count: rows.
    """

    mean: Tensor
    variance: Tensor
    count: int

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Of the rows of (n, features) alone."""
        return cls(rows.mean(0), rows.var(0, correction=0), len(rows))

    def joined(self, other: Moments) -> Moments:
        """Of both sets of rows."""
        count = self.count + other.count
        share, distance = other.count / count, other.mean - self.mean
        variance = self.variance.lerp(other.variance, share)
        return Moments(
            self.mean + share * distance,
            variance + share * (1.0 - share) * distance.square(),
            count,
        )

    def normalised(self, rows: Tensor) -> Tensor:
        """The rows with mean 0 and variance 1."""
        return (rows - self.mean) / (self.variance.sqrt() + _EPSILON)


def shift(inputs: Tensor, gradients: Tensor, moments: Moments, config: UltraEditConfig) -> Tensor:
    """Δ of one matrix, (d_out, d_in) float64.

    Args:
        inputs: H, (n, d_in) float64.
        gradients: (n, d_out) float64, of the loss by the matrix's output.
        moments: of `[H, gradients]` over all edits so far, this batch's included.
        config: of the method.
    """
    width = inputs.shape[1]
    normal = moments.normalised(torch.cat([inputs, gradients], dim=1))
    strength = -config.step * (inputs * normal[:, :width]).sum(1, keepdim=True)
    gram = inputs.T @ inputs + config.ridge * torch.eye(width).to(inputs)
    solved: Tensor = torch.linalg.solve(gram, inputs.T @ (strength * normal[:, width:]))
    return solved.T


class UltraEdit(LocalModel):
    """A model whose down projections get one closed-form step for each batch."""

    def __init__(self, model: CausalLM, config: UltraEditConfig) -> None:
        """Copies the base weights, which `reset` restores.

        Raises:
            InvalidRequestError: no such layer.
        """
        super().__init__(model)
        self._config = config
        self._layers = config.layers or tuple(range(model.num_layers // 2, model.num_layers))
        for layer in self._layers:
            check_layer(layer, model.num_layers, "config.layers")
        self._base = {layer: model.down_weight(layer).clone() for layer in self._layers}
        self._moments: dict[int, Moments] = {}
        self.state_bytes = sum(base.numel() * base.element_size() for base in self._base.values())

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Takes one step for all records together."""
        start = perf_counter()
        for layer, (inputs, gradients) in self._traced(records).items():
            own = Moments.of(torch.cat([inputs, gradients], dim=1))
            known = self._moments.get(layer)
            self._moments[layer] = own if known is None else known.joined(own)
            delta = shift(inputs, gradients, self._moments[layer], self._config)
            weight = self.model.down_weight(layer)
            self.model.set_down_weight(layer, weight.float() + delta.to(weight.device).float())
        return EditOutcome(rejected=(), seconds=perf_counter() - start)

    def reset(self) -> None:
        """Restores the base weights, bit for bit, and forgets the moments."""
        for layer, base in self._base.items():
            self.model.set_down_weight(layer, base)
        self._moments.clear()

    def _traced(self, records: Sequence[Record]) -> Mapping[int, tuple[Tensor, Tensor]]:
        """Inputs and gradients at the tokens that predict the answers, (n, ·) float64 each."""
        model = self.model
        rows = [tokenise(model, record.prompt, record.target_new) for record in records]
        ids, mask = pad_right(model, [row.ids for row in rows])
        row, column, label = torch.tensor(target_places(rows), device=model.device).T
        seen: dict[int, Tensor] = {}
        changes = {
            layer: torch.zeros(*ids.shape, model.d, device=ids.device, requires_grad=True)
            for layer in self._layers
        }
        with ExitStack() as hooks, torch.enable_grad():
            for layer, change in changes.items():
                hook = _tracing(model, layer, change, seen)
                hooks.callback(model.down(layer).register_forward_hook(hook).remove)
            call = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)}
            hidden = model.body(**call, use_cache=False).last_hidden_state
            scores = model.head(hidden[row, column]).float()
            loss = torch.nn.functional.cross_entropy(scores, label)
            found = torch.autograd.grad(loss, list(changes.values()))
        return {
            layer: (seen[layer][row, column].double(), gradient[row, column].double())
            for layer, gradient in zip(self._layers, found, strict=True)
        }


def _tracing(model: CausalLM, layer: int, change: Tensor, seen: dict[int, Tensor]) -> Any:
    """A hook that keeps the input of a down projection and adds `change` to its output."""

    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        seen[layer] = model.by_row(args[0]).detach()
        own = first_output(output)
        old = model.by_row(own)
        new = (old + change.to(old.dtype)).view_as(own)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook
