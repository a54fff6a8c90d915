"""Compaction: fits all edits anew on the base weights, each beside the keys of all others.

An edit is fitted on weights that contain what came before it: also edits that were reverted since,
and without knowing those that follow. A compaction leaves no trace of the first, and protects
every edit from all others. If it raises the figures, edits were forgotten; if not, the width is
what limits them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.fit import Statistics, fit_batch, restored_weights, without_edits
from errata.editing.adaple.memory import AdapleMemory
from errata.editing.adaple.packing import pack
from errata.editing.adaple.solve import LowRankDelta
from errata.editing.adaple.state import AdapleState
from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.lane.inventory import fact_of
from errata.editing.model.causal_lm import CausalLM
from errata.errors import InvalidRequestError

_BATCH = 10  # edits that are fitted together, as in the writer's batches


def refit(
    model: CausalLM,
    edits: Sequence[Edit],
    config: AdapleConfig,
    state: AdapleState,
    memory: AdapleMemory,
    statistics: Statistics,
    *,
    num_experts: int,
    seed: int,
) -> Artifact:
    """Fits the newest edit of each fact anew; the earlier ones keep their columns.

    Args:
        model: its weights are restored bit for bit, also after an error.
        edits: all active edits of the lane, oldest first.
        config: of the lane.
        state: of the lane.
        memory: keys of the edits.
        statistics: of every edited layer.
        num_experts: must be 0: the lane has none.
        seed: of contexts and masks.

    Returns:
        One artifact for all edits, in their order.

    Raises:
        InvalidRequestError: experts are asked for, or top-k fusion, which is of single commits.
        SingularCovarianceError, FitError: as `fit`.
    """
    if num_experts:
        raise InvalidRequestError(
            "an AdaPLE lane has no experts; leave num_experts out.", field="num_experts"
        )
    if config.fusion == "topk" and config.drop:
        raise InvalidRequestError(
            "top-k fusion keeps the largest entries of each commit; a lane with it cannot be "
            "compacted into one.",
            field="config.fusion",
        )
    layers = config.resolve_layers(model.num_layers)
    facts = [fact_of(edit.said) for edit in edits]
    newest = {fact: number for number, fact in enumerate(facts)}
    fitted = sorted(newest.values())
    columns = _Columns({name: state.columns_of(name) for name in state.names}, layers)
    keys = {layer: {edit.name: memory.key(edit.name, layer) for edit in edits} for layer in layers}
    names = [edit.name for edit in edits]
    replaced = set(names) - {names[number] for number in fitted}
    grams = {layer: memory.gram(layer, replaced) for layer in layers}
    with without_edits(state, names), restored_weights(model, layers) as base:
        current: Mapping[int, Tensor] = base
        for start in range(0, len(fitted), _BATCH):
            batch = tuple(edits[number] for number in fitted[start : start + _BATCH])
            others = {
                layer: _without(gram, [keys[layer][edit.name] for edit in batch])
                for layer, gram in grams.items()
            }
            found = fit_batch(model, EditBatch(batch, seed), config, others, statistics, current)
            current = {layer: model.down_weight(layer).clone() for layer in layers}
            for layer in layers:
                columns.put(layer, batch, found.deltas[layer])
                own = found.keys[layer]  # (d_ff, u)
                for edit, key in zip(batch, own.T, strict=True):
                    keys[layer][edit.name] = key
                other = others[layer]
                grams[layer] = None if other is None else other + (own @ own.T).to(other)
    deltas = {layer: columns.joined(layer, names) for layer in layers}
    joined = {
        layer: torch.stack([keys[layer][name].double() for name in names], dim=-1).to(model.device)
        for layer in layers
    }
    earlier = [
        [names[other] for other in range(number) if facts[other] == fact]
        for number, fact in enumerate(facts)
    ]
    return pack(model, config, seed, deltas, joined, facts, earlier)


class _Columns:
    """The factors' columns of each edit."""

    def __init__(
        self, known: Mapping[str, Mapping[int, tuple[Tensor, Tensor]]], layers: Sequence[int]
    ) -> None:
        self._of = {layer: {name: own[layer] for name, own in known.items()} for layer in layers}

    def put(self, layer: int, batch: Sequence[Edit], delta: LowRankDelta) -> None:
        for edit, left, right in zip(batch, delta.left.T, delta.right.T, strict=True):
            self._of[layer][edit.name] = (left, right)

    def joined(self, layer: int, names: Sequence[str]) -> LowRankDelta:
        lefts, rights = zip(*(self._of[layer][name] for name in names), strict=True)
        return LowRankDelta(torch.stack(lefts, dim=-1), torch.stack(rights, dim=-1))


def _without(gram: Tensor | None, keys: Sequence[Tensor]) -> Tensor | None:
    """ΣKτKτᵀ without these keys."""
    if gram is None:
        return None
    own = torch.stack([key.to(gram) for key in keys], dim=-1)
    return gram - own @ own.T
