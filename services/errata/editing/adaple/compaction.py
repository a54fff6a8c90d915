"""Compaction: fits all edits anew on the base weights, each beside the keys of all others.

An edit is fitted on weights that contain what came before it: also edits that were reverted since,
and without knowing those that follow. A compaction leaves no trace of the first, and protects
every edit from all others. If it raises the figures, edits were forgotten; if not, the width is
what limits them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.fit import (
    Fitted,
    Statistics,
    fit_batch,
    restored_weights,
    without_edits,
)
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
    facts, names = [fact_of(edit.said) for edit in edits], [edit.name for edit in edits]
    newest = sorted({fact: number for number, fact in enumerate(facts)}.values())
    known = _Known(state, memory, names, layers, replaced=set(names) - {names[i] for i in newest})
    with without_edits(state, names), restored_weights(model, layers) as base:
        current: Mapping[int, Tensor] = base
        for start in range(0, len(newest), _BATCH):
            batch = tuple(edits[number] for number in newest[start : start + _BATCH])
            others = known.grams_beside(batch)
            found = fit_batch(model, EditBatch(batch, seed), config, others, statistics, current)
            known.put(batch, found, others)
            current = {layer: model.down_weight(layer).clone() for layer in layers}
    earlier = [
        [names[other] for other in range(number) if facts[other] == fact]
        for number, fact in enumerate(facts)
    ]
    return pack(model, config, seed, *known.joined(names, model.device), facts, earlier)


class _Known:
    """Columns of both factors and the key of each edit, the newest that are known."""

    def __init__(
        self,
        state: AdapleState,
        memory: AdapleMemory,
        names: Sequence[str],
        layers: Sequence[int],
        *,
        replaced: Collection[str],
    ) -> None:
        columns = {name: state.columns_of(name) for name in names}
        self._columns = {layer: {name: columns[name][layer] for name in names} for layer in layers}
        self._keys = {layer: {name: memory.key(name, layer) for name in names} for layer in layers}
        self._grams = {layer: memory.gram(layer, replaced) for layer in layers}

    def grams_beside(self, batch: Sequence[Edit]) -> dict[int, Tensor | None]:
        """ΣKτKτᵀ of each layer without the batch's keys."""
        found: dict[int, Tensor | None] = {}
        for layer, gram in self._grams.items():
            keys = [self._keys[layer][edit.name] for edit in batch]
            own = None if gram is None else torch.stack([key.to(gram) for key in keys], dim=-1)
            found[layer] = gram if gram is None or own is None else gram - own @ own.T
        return found

    def put(
        self, batch: Sequence[Edit], fitted: Fitted, others: Mapping[int, Tensor | None]
    ) -> None:
        """Replaces what is known of the batch; `others` as from `grams_beside`."""
        for layer, other in others.items():
            delta, own = fitted.deltas[layer], fitted.keys[layer]
            for number, edit in enumerate(batch):
                self._columns[layer][edit.name] = delta.left[:, number], delta.right[:, number]
                self._keys[layer][edit.name] = own[:, number]
            self._grams[layer] = None if other is None else other + (own @ own.T).to(other)

    def joined(
        self, names: Sequence[str], device: torch.device
    ) -> tuple[dict[int, LowRankDelta], dict[int, Tensor]]:
        """Factors and keys (d_ff, N) float64 of each layer, in the order of `names`."""
        deltas: dict[int, LowRankDelta] = {}
        keys: dict[int, Tensor] = {}
        for layer, columns in self._columns.items():
            lefts, rights = zip(*(columns[name] for name in names), strict=True)
            deltas[layer] = LowRankDelta(torch.stack(lefts, dim=-1), torch.stack(rights, dim=-1))
            own = [self._keys[layer][name].double().to(device) for name in names]
            keys[layer] = torch.stack(own, dim=-1)
        return deltas, keys
