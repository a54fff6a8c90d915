"""How much a change of a layer's values damages text: the Fisher matrix of its FFN's output.

If every token's output of layer l moves by a random vector v, the mean loss of text rises, to
second order, by ½ E[vᵀFv] nats per token. F = E[ggᵀ], where g is the gradient of the text's loss
by that output and its labels are drawn from the model itself (Martens 2020; as one factor of
K-FAC's approximation, Ritter et al. 2018 use it against forgetting). Computed once per base model
and cached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.covariance import batches, token_rows
from errata.editing.adaple.statistics_cache import Statistic, cached
from errata.editing.lane.contract import Resources
from errata.editing.model.blocks import first_output
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import pad_right, positions
from errata.errors import InvalidRequestError

_SEED = 0  # of the drawn labels


def gather(model: CausalLM, config: AdapleConfig, resources: Resources) -> dict[int, Tensor]:
    """Reads the factors F^−½ that a lane's fits need from the cache, or computes them.

    Returns:
        Layer → (d, d) fp32 on the model's device, symmetric; empty if the lane needs none.

    Raises:
        PreconditionError: not cached, and the model no longer holds its base weights.
        InvalidRequestError: there is no text.
    """
    if config.optimise != "layers":
        return {}
    statistic = Statistic("fisher", config.resolve_layers(model.num_layers), model.d)

    def missing(text: Sequence[str], layers: Sequence[int]) -> dict[int, Tensor]:
        return compute(model, text, layers, max_tokens=config.metric_tokens)

    found = cached(model, resources, statistic, config.metric_tokens, missing)
    return {layer: inverse_root(matrix, config) for layer, matrix in found.items()}


def inverse_root(fisher: Tensor, config: AdapleConfig) -> Tensor:
    """(F + ρ·mean eigenvalue·I)^−½ with ρ = `metric_floor`, (d, d) fp32.

    With `metric=euclidean` F is replaced by its mean eigenvalue: all directions count alike.
    """
    values, vectors = torch.linalg.eigh(fisher)
    mean = values.mean()
    values = mean.expand_as(values) if config.metric == "euclidean" else values.clamp(min=0.0)
    scales = (values + config.metric_floor * mean).rsqrt()
    root: Tensor = (vectors * scales) @ vectors.T
    return root.float()


def compute(
    model: CausalLM, text: Iterable[str], layers: Sequence[int], *, max_tokens: int
) -> dict[int, Tensor]:
    """Averages ggᵀ over the tokens of a text.

    Args:
        model: holds its base weights.
        text: paragraphs; read until `max_tokens` tokens are collected.
        layers: the gradients are those of their down projections' outputs.
        max_tokens: number of gradients.

    Returns:
        Layer → F, (d, d) float64.

    Raises:
        InvalidRequestError: the text has no token.
    """
    rows = token_rows(model, text, max_tokens)
    if not rows:
        raise InvalidRequestError("the text for statistics is empty; give plain text paragraphs.")
    device = model.device
    generator = torch.Generator(device).manual_seed(_SEED)
    sums = {
        layer: torch.zeros(model.d, model.d, dtype=torch.float64).to(device) for layer in layers
    }
    for batch in batches(rows):
        ids, mask = pad_right(model, batch)
        is_real = mask.bool()
        for layer, gradient in _gradients(model, ids, mask, layers, generator).items():
            own = gradient[is_real].double()
            sums[layer] += own.T @ own
    total = sum(map(len, rows))
    return {layer: found / total for layer, found in sums.items()}


def _gradients(
    model: CausalLM, ids: Tensor, mask: Tensor, layers: Sequence[int], generator: torch.Generator
) -> Mapping[int, Tensor]:
    """Gradients of the sum of all tokens' losses by each layer's FFN output, (B, T, d) fp32."""
    changes = {
        layer: torch.zeros(*ids.shape, model.d, device=ids.device, requires_grad=True)
        for layer in layers
    }
    with ExitStack() as hooks, torch.enable_grad():
        for layer, change in changes.items():
            hook = _adding(model, change)
            hooks.callback(model.down(layer).register_forward_hook(hook).remove)
        call = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)}
        hidden = model.body(**call, use_cache=False).last_hidden_state
        scores = model.head(hidden[mask.bool()]).float().log_softmax(-1)  # (tokens, vocabulary)
        labels = torch.multinomial(scores.detach().exp(), 1, generator=generator)
        loss = -scores.gather(-1, labels).sum()
        found = torch.autograd.grad(loss, list(changes.values()))
    return dict(zip(changes, found, strict=True))


def _adding(model: CausalLM, change: Tensor) -> Any:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        own = first_output(output)
        old = model.by_row(own)
        new = (old + change.to(old.dtype)).view_as(own)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook
