"""Changes of every edited layer's own value, found where they cost text the least.

MEMIT and PMET optimise the value of the last edited layer and let the layers share the residual.
Here every layer l has its own change δ^l of m^l at the last subject token, and all are optimised
jointly. A layer that writes δ^l through its key k changes its outputs on text by δ^l(uᵀx), where
E[(uᵀx)²] = 1/κ^l and κ^l = kᵀ(C/λ)⁻¹k. By the layer's Fisher matrix F^l (`adaple.damage`), that
raises the loss of text by

    cost(δ) = Σ_l δ^lᵀ F^l δ^l / (2κ^l)   nats per token.

With δ^l = √(2κ^l)·(F^l)^−½ρ^l the cost is |ρ|². Steps of equal length along the steepest descent
of the target's loss in ρ, from 0 and ended as soon as the target is the likeliest, therefore end
near the cheapest change that suffices. Layers and directions to which text is sensitive, and keys
that text shares, take little part by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.targets import REGATHER_SHARE, TargetProblem
from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM

_TINY = 1e-20


@dataclass(frozen=True, slots=True)
class Changes:
    """Result of the optimisation, fp32.

    Attributes:
        values: layer → δ^l, (u, d): what the down projection's output should change by.
        loss: (u,), mean NLL of the target over contexts when the edit stopped.
        cost: (u,), predicted rise of the loss of text, in nats per token.
        steps: number of optimisation steps.
    """

    values: Mapping[int, Tensor]
    loss: Tensor
    cost: Tensor
    steps: int


def optimise_changes(
    model: CausalLM,
    edits: Sequence[Edit],
    contexts: Sequence[str],
    config: AdapleConfig,
    roots: Mapping[int, Tensor],
    whitened: Mapping[int, Tensor],
) -> Changes:
    """Optimises δ^l of all edited layers. Deterministic; no random numbers.

    An edit stops once each token of its target is the likeliest in every context and its mean NLL
    is below `stop_loss`.

    Args:
        model: unchanged afterwards.
        edits: the batch.
        contexts: templates; the bare prompt first.
        config: of the lane.
        roots: layer → (F^l)^−½, (d, d) fp32, ascending.
        whitened: layer → κ^l, (u,) fp32.

    Raises:
        InvalidEditError: a subject is not in its prompt, or a text is too long.
    """
    layers = tuple(roots)
    scale = torch.stack([(2.0 * whitened[layer]).sqrt() for layer in layers])[
        ..., None
    ]  # (L, u, 1)
    root = torch.stack([roots[layer] for layer in layers])  # (L, d, d)
    size = len(edits)
    rho = torch.zeros(len(layers), size, model.d, device=root.device)
    last = torch.full((size,), torch.inf, device=root.device)
    length = config.step_length / model.d_ff**0.5
    problem = TargetProblem(model, edits, contexts, config, layers[0])
    gathered = active = torch.arange(size, device=root.device)  # gathered: the edits of `problem`
    num_steps = 0
    for _ in range(config.steps):
        x = rho[:, gathered].requires_grad_(True)
        with torch.enable_grad():
            changes = scale[:, gathered] * (x @ root)
            pairs = {model.down(layer): own for layer, own in zip(layers, changes, strict=True)}
            outcome = problem.outcome(pairs)
            loss = (outcome.loss + config.kl_weight * outcome.divergence).sum()
            (gradient,) = torch.autograd.grad(loss, x)
        nll, is_active = outcome.loss.detach(), torch.isin(gathered, active)
        last[gathered] = torch.where(is_active, nll, last[gathered])
        is_moving = is_active & ((outcome.num_wrong > 0) | (nll >= config.stop_loss))
        if not bool(is_moving.any()):
            break
        active = gathered[is_moving]
        along = gradient[:, is_moving]
        norm = along.square().sum((0, 2), keepdim=True).sqrt()
        rho[:, active] -= length * along / norm.clamp(min=_TINY)
        num_steps += 1
        if len(active) <= REGATHER_SHARE * len(gathered):
            gathered = active
            chosen = [edits[int(i)] for i in gathered]
            problem = TargetProblem(model, chosen, contexts, config, layers[0])
    values = dict(zip(layers, scale * (rho @ root), strict=True))
    return Changes(values, last, rho.square().sum((0, 2)), num_steps)
