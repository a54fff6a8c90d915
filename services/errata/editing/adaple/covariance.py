"""E[kkᵀ] of the edited layers' keys over plain text, computed once per base model and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.statistics_cache import Statistic, cached
from errata.editing.lane.contract import Progress, Resources
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import pad_right, positions, text_ids
from errata.editing.model.replay import run_until
from errata.errors import InvalidRequestError

_GROUP = 16  # paragraphs; cached matrices are of whole groups
_MAX_TOKENS = 256  # of one paragraph
_BATCH_TOKENS = 1024  # what a pass computes from them still fits into a CPU's cache
_STRIPS = 8


def gather(
    model: CausalLM,
    config: AdapleConfig,
    resources: Resources,
    *,
    on_progress: Progress | None = None,
) -> dict[int, Tensor]:
    """Reads the covariances that a lane's fits need from the cache, or computes and caches them.

    The cache key consists of base model, layer, text and number of tokens. A damaged file is
    computed again.

    Returns:
        Layer → E[kkᵀ], (d_ff, d_ff) float64, uncentred, on the model's device.

    Raises:
        PreconditionError: not cached, and the model no longer holds its base weights.
        InvalidRequestError: a layer does not exist, or there is no text.
    """
    max_tokens = config.covariance_samples * model.d_ff
    statistic = Statistic("covariance", config.resolve_layers(model.num_layers), model.d_ff)

    def missing(text: Sequence[str], layers: Sequence[int]) -> dict[int, Tensor]:
        return compute(model, text, layers, max_tokens=max_tokens, on_progress=on_progress)

    return cached(model, resources, statistic, max_tokens, missing)


@torch.no_grad()
def compute(
    model: CausalLM,
    text: Iterable[str],
    layers: Sequence[int],
    *,
    max_tokens: int,
    on_progress: Progress | None = None,
) -> dict[int, Tensor]:
    """Averages kkᵀ over the tokens of a text.

    Each pass ends at the last of these layers. Products are fp32 per batch, sums are float64: a
    long fp32 sum would lose small directions.

    Args:
        model: holds its base weights.
        text: paragraphs; read until `max_tokens` keys are collected.
        layers: the keys are the inputs of their down projections.
        max_tokens: number of keys; with too few, relative to d_ff, the matrix is nearly singular.
        on_progress: called with the number of tokens read and the total, first with 0.

    Returns:
        Layer → E[kkᵀ], (d_ff, d_ff) float64.

    Raises:
        InvalidRequestError: the text has no token.
    """
    rows = token_rows(model, text, max_tokens)
    if not rows:
        raise InvalidRequestError("the text for statistics is empty; give plain text paragraphs.")
    report = on_progress or (lambda done, total: None)
    sums = {
        layer: torch.zeros(model.d_ff, model.d_ff, dtype=torch.float64, device=model.device)
        for layer in layers
    }
    done, total = 0, sum(map(len, rows))
    report(done, total)
    with ExitStack() as hooks:
        is_real = torch.empty(0)

        def make_hook(layer: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
                keys = model.by_row(args[0])[is_real].float()  # (tokens, d_ff)
                _add_products(sums[layer], keys)

            return hook

        for layer in layers:
            hooks.callback(model.down(layer).register_forward_pre_hook(make_hook(layer)).remove)
        for batch in batches(rows):
            ids, mask = pad_right(model, batch)
            is_real = mask.bool()
            call = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)}
            run_until(model.down(max(layers)), partial(model.body, **call, use_cache=False))
            done += sum(map(len, batch))
            report(done, total)
    return {layer: _symmetric(upper) / total for layer, upper in sums.items()}


def system(second_moment: Tensor, config: AdapleConfig, earlier: Tensor | None) -> Tensor:
    """C of the closed form: λ(E[kkᵀ] + ρ·mean diagonal·I) + ΣKτKτᵀ.

    Args:
        second_moment: E[kkᵀ], (d_ff, d_ff) float64.
        config: gives λ and the ridge ρ.
        earlier: ΣKτKτᵀ of earlier batches, or None.
    """
    d_ff = second_moment.shape[0]
    ridge = config.ridge * second_moment.diagonal().mean()
    matrix = second_moment + ridge * torch.eye(d_ff).to(second_moment)
    matrix = config.resolve_lambda(d_ff) * matrix
    return matrix if earlier is None else matrix + earlier.to(matrix)


def token_rows(model: CausalLM, text: Iterable[str], max_tokens: int) -> list[list[int]]:
    """Token ids of the first paragraphs, in groups, until there are `max_tokens`."""
    limit = min(_MAX_TOKENS, model.max_positions)
    paragraphs = iter(text)
    groups = iter(lambda: list(islice(paragraphs, _GROUP)), [])
    found = (row for group in groups for row in text_ids(model, group, most=limit) if row)
    rows: list[list[int]] = []
    num_tokens = 0
    while num_tokens < max_tokens and (group := list(islice(found, _GROUP))):
        rows += group
        num_tokens += sum(map(len, group))
    return rows


def batches(rows: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Rows of similar length, at most `_BATCH_TOKENS` tokens with padding; the longest first."""
    batch: list[list[int]] = []
    for row in sorted(rows, key=len, reverse=True):
        if batch and len(batch[0]) * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _add_products(upper: Tensor, keys: Tensor) -> None:
    """Adds the upper triangle of Σkkᵀ, in strips of rows: half the work of the whole product.

    Args:
        upper: (d_ff, d_ff) float64; changed, also in parts of the lower triangle.
        keys: (tokens, d_ff) fp32.
    """
    width = -(-keys.shape[1] // _STRIPS)
    for start in range(0, keys.shape[1], width):
        strip = keys[:, start : start + width]
        upper[start : start + width, start:] += strip.T @ keys[:, start:]


def _symmetric(upper: Tensor) -> Tensor:
    return upper.triu() + upper.triu(1).T
