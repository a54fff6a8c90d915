"""Fits a batch: optimises targets, then solves, fuses, adds and measures again per layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.contexts import make_contexts
from errata.editing.adaple.covariance import system
from errata.editing.adaple.fusion import fuse
from errata.editing.adaple.keys import KeyProbes
from errata.editing.adaple.memory import AdapleMemory, key_name
from errata.editing.adaple.packing import pack
from errata.editing.adaple.residuals import own_residual, shared_residual
from errata.editing.adaple.solve import (
    LowRankDelta,
    solve_delta,
    solve_equality,
    solve_in_null_space,
)
from errata.editing.adaple.state import AdapleState
from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.lane.contract import FitResult
from errata.editing.lane.inventory import fact_of
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.errors import InvalidEditError


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the fits of a lane need of the base model.

    Attributes:
        second_moments: layer → E[kkᵀ], (d_ff, d_ff) float64, from `covariance.gather`.
        roots: layer → F^−½, (d, d) fp32, from `damage.gather`; empty with `optimise=top`.
    """

    second_moments: Mapping[int, Tensor]
    roots: Mapping[int, Tensor]


def fit(
    model: CausalLM,
    batch: EditBatch,
    config: AdapleConfig,
    state: AdapleState,
    memory: AdapleMemory,
    statistics: Statistics,
) -> FitResult:
    """Fits a batch on the current weights, earlier edits included (AdaPLE, Algorithm 1).

    1. Contexts and targets: z = m^L + δ^m (`optimise=top`), or δ^l of every layer (`layers`).
    2. For each edited layer, ascending: keys K₁, residual r = (z − c·m^L_now) / share or δ^l,
       Δ = r Uᵀ.
    3. Fuse Δ, add it to the weight, and measure again before the next layer.

    The paper's Algorithm 1 adds 3m^l per layer and indexes from an undefined start. The layers'
    shares sum to more than one, so the residual has to be measured again for each layer.

    Args:
        model: its weights are restored bit for bit, also after an error.
        batch: edits, and the seed of contexts and masks.
        config: of the lane.
        state: of the lane; earlier edits of a fact are removed while a new one is fitted.
        memory: keys of earlier batches; read only.
        statistics: of every edited layer.

    Returns:
        Artifact with fp32 factors; memory with the keys; seconds of `targets`, `keys`, `solve`.

    Raises:
        InvalidEditError: an edit cannot be tokenised; `field` names it.
        SingularCovarianceError: a layer cannot be solved.
        FitError: the optimisation produced numbers that are not finite.
    """
    _check_edits(model, batch.edits)
    layers = config.resolve_layers(model.num_layers)
    facts = [fact_of(edit.said) for edit in batch.edits]
    replaced = [state.edits_of(fact) for fact in facts]
    removed = dict.fromkeys(name for names in replaced for name in names)
    grams = {layer: memory.gram(layer, removed.keys()) for layer in layers}
    with without_edits(state, list(removed)), restored_weights(model, layers) as base:
        own = config.for_attempt(batch.attempt)
        fitted = fit_batch(model, batch, own, grams, statistics, base)
    artifact = pack(model, config, batch.seed, fitted.deltas, fitted.keys, facts, replaced)
    keys = Artifact({key_name(layer): value.float() for layer, value in fitted.keys.items()})
    return FitResult(artifact=artifact, memory=keys, seconds=fitted.seconds)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Factors and keys (d_ff, u) float64 of each layer, and the wall-clock seconds of each part."""

    deltas: dict[int, LowRankDelta]
    keys: dict[int, Tensor]
    seconds: dict[str, float]


def fit_batch(
    model: CausalLM,
    batch: EditBatch,
    config: AdapleConfig,
    grams: Mapping[int, Tensor | None],
    statistics: Statistics,
    base: Mapping[int, Tensor],
) -> Fitted:
    """As `fit`, on weights from which the batch's earlier edits are removed.

    Args:
        model: afterwards, its edited layers have the sum of `base` and the fused deltas.
        batch: edits, and the seed of contexts and masks.
        config: of the lane and the attempt.
        grams: ΣKτKτᵀ of the edits to preserve, or None, of every edited layer.
        statistics: of every edited layer.
        base: the current weights of every edited layer, ascending.
    """
    layers, clock = tuple(base), _Clock()
    with clock("keys"):
        contexts = make_contexts(model, config, batch.seed)
        probes = KeyProbes(model, batch.edits, contexts, config, layers)
    with clock("targets"):
        asked = model, batch.edits, contexts, config, probes
        if config.optimise == "layers":
            moments, roots = statistics.second_moments, statistics.roots
            residual_of = own_residual(*asked, moments, grams, roots)
        else:
            residual_of = shared_residual(*asked, layers)
    deltas: dict[int, LowRankDelta] = {}
    keys: dict[int, Tensor] = {}
    for layer in layers:
        with clock("keys"):
            probes.advance(layer)
            keys[layer] = probes.keys()
            residual = residual_of(layer).T.double()  # (d, u)
        with clock("solve"):
            second_moment = statistics.second_moments[layer]
            delta = solve(keys[layer], residual, second_moment, grams[layer], config)
            # Replicas receive fp32 factors; the fit has to measure their effect.
            deltas[layer] = LowRankDelta(delta.left.float(), delta.right.float())
            dense = deltas[layer].dense()
            fused = fuse(
                dense,
                dense,
                fusion=config.fusion,
                seed=batch.seed,
                layer=layer,
                p=config.drop,
            )
            model.set_down_weight(layer, base[layer].float() + fused)
    return Fitted(deltas, keys, clock.seconds)


def solve(
    keys: Tensor,
    residual: Tensor,
    second_moment: Tensor,
    earlier: Tensor | None,
    config: AdapleConfig,
) -> LowRankDelta:
    """Solves one layer in the variant of the lane's configuration.

    Args:
        keys: K₁, (d_ff, u), float64.
        residual: R, (d, u), float64.
        second_moment: E[kkᵀ], (d_ff, d_ff), float64.
        earlier: ΣKτKτᵀ of earlier batches, or None.
        config: of the lane.

    Raises:
        SingularCovarianceError: the layer cannot be solved.
    """
    if config.variant == "nullspace":
        d_ff = second_moment.shape[0]
        weight = config.ridge * config.resolve_lambda(d_ff)
        return solve_in_null_space(
            keys,
            residual,
            second_moment,
            earlier,
            threshold=config.null_threshold,
            ridge=float(weight * second_moment.diagonal().mean()),
        )
    covariance = system(second_moment, config, earlier)
    if config.variant == "equality":
        return solve_equality(keys, residual, covariance)
    return solve_delta(keys, residual, covariance, gamma=config.gamma)


def _check_edits(model: CausalLM, edits: Sequence[Edit]) -> None:
    if not edits:
        raise InvalidEditError("a batch needs at least one edit.", field="edits")
    for number, edit in enumerate(edits):
        try:
            tokenise(model, edit.prompt, edit.target, subject=edit.subject, stated=edit.separator)
            if not edit.target.strip():
                raise InvalidEditError("the target is empty; give a visible target.")
        except InvalidEditError as error:
            raise InvalidEditError(
                f"edits[{number}]: {error.message}", field=f"edits[{number}]", **error.metadata
            ) from error


@contextmanager
def without_edits(state: AdapleState, names: Sequence[str]) -> Iterator[None]:
    """Removes these edits from the weights inside the context."""
    if not names:
        yield
        return
    undo = state.prepare_reversal(names).apply()
    try:
        yield
    finally:
        undo()


@contextmanager
def restored_weights(model: CausalLM, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Yields copies of the layers' weights, and writes the same bits back on exit."""
    copies = {layer: model.down_weight(layer).clone() for layer in layers}
    try:
        yield copies
    finally:
        for layer, weight in copies.items():
            model.set_down_weight(layer, weight)


class _Clock:
    """Sums the wall-clock time of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + perf_counter() - start
