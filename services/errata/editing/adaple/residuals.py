"""What each edited layer's outputs should change by, for either kind of optimisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.covariance import system
from errata.editing.adaple.keys import KeyProbes
from errata.editing.adaple.layerwise import optimise_changes
from errata.editing.adaple.solve import whitened_norms
from errata.editing.adaple.targets import optimise_targets
from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM
from errata.errors import FitError

Residual = Callable[[int], Tensor]
"""Layer → (u, d) fp32, measured when the probes have advanced to that layer."""


def shared_residual(
    model: CausalLM,
    edits: Sequence[Edit],
    contexts: Sequence[str],
    config: AdapleConfig,
    probes: KeyProbes,
    layers: Sequence[int],
) -> Residual:
    """Optimises the value of the last layer; each layer takes its share of what is missing now.

    Raises:
        FitError: the optimisation produced numbers that are not finite.
    """
    ffn, hidden = probes.values()
    initial = hidden if config.target == "hidden" else ffn
    # ‖h^L‖ in units of the outputs that δ^m and δ^a are added to, (2, u)
    reference = hidden.norm(dim=-1) * torch.stack(probes.gains(layers[-1]))
    targets = optimise_targets(model, edits, contexts, config, layers[-1], initial, reference)
    _check(targets.values, "step_size or clamp")

    def residual(layer: int) -> Tensor:
        ffn, hidden = probes.values()
        # A layer adds to the residual stream what its own gain makes of its output.
        gain = probes.gains(layer)[0] / probes.gains(layers[-1])[0]  # (u,)
        current = hidden if config.target == "hidden" else ffn
        layers_left = len(layers) - layers.index(layer)
        share = layers_left**0.5 if config.spread == "sqrt" else float(layers_left)
        return gain[:, None] * (targets.values - config.old_weight * current) / share

    return residual


def own_residual(
    model: CausalLM,
    edits: Sequence[Edit],
    contexts: Sequence[str],
    config: AdapleConfig,
    probes: KeyProbes,
    second_moments: Mapping[int, Tensor],
    grams: Mapping[int, Tensor | None],
    roots: Mapping[int, Tensor],
) -> Residual:
    """Optimises a change of each layer's own value (`adaple.layerwise`).

    Args:
        model: with the weights from before the fit.
        edits: the batch.
        contexts: templates; the bare prompt first.
        config: of the lane.
        probes: at the first layer; they are there again afterwards.
        second_moments: E[kkᵀ] of every edited layer.
        grams: ΣKτKτᵀ of earlier batches, or None.
        roots: F^−½ of every edited layer, from `damage.gather`.

    Raises:
        FitError: the optimisation produced numbers that are not finite.
    """
    whitened: dict[int, Tensor] = {}
    for layer in roots:
        probes.advance(layer)
        covariance = system(second_moments[layer], config, grams[layer])
        lam = config.resolve_lambda(model.d_ff)
        whitened[layer] = (lam * whitened_norms(probes.keys(), covariance)).float()
    probes.rewind()
    changes = optimise_changes(model, edits, contexts, config, roots, whitened)
    for values in changes.values.values():
        _check(values, "step_length")
    return lambda layer: changes.values[layer]


def _check(values: Tensor, options: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise FitError(f"the target vectors are not finite; use a smaller {options}.")
