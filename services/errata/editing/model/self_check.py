"""Checks that body and head of a model together compute the same as the whole model.

Some causal LMs compute something behind their head that `head.head_of` does not know, and some
choose position embeddings by the longest row of a batch. Errata calls body and head separately, for
rows of different lengths in one batch, and would give wrong answers with either. Such models are
refused when they are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from errata.editing.model.families import SUPPORTED
from errata.errors import UnsupportedModelError

_LENGTHS = (1, 2, 5, 40, 11)
# Of log-probabilities, in nats: kernels differ between shapes, more so in 16-bit formats.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
_NARROW_WINDOW = 3
_MOST_LIKELY = 32  # tokens that are compared at each position; the tail is noise


class Parts(Protocol):
    """The parts of a `CausalLM` that the check uses."""

    model: nn.Module
    body: nn.Module
    head: nn.Module
    max_positions: int
    num_embeddings: int

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""

    def attention_mask(self, positions: Tensor, length: int) -> Any:
        """The attention mask, as `CausalLM.attention_mask`."""

    def narrowed(self, window: int) -> AbstractContextManager[bool]:
        """As `CausalLM.narrowed`."""


@torch.no_grad()
def check_forward(model: Parts) -> None:
    """Compares log-probabilities of a mixed batch with transformers' own forward, row by row.

    1. Each row alone, through body and head: detects computation between them or after the head.
    2. All rows together, right-padded.
    3. The same with one row at the model's last positions.

    Raises:
        UnsupportedModelError: they differ; the message names the fields of the configuration
            that may be the cause.
    """
    rows = [torch.tensor(row, device=model.device) for row in _rows(model)]
    ids = pad_sequence(rows, batch_first=True)
    places = torch.arange(ids.shape[1], device=model.device).expand(ids.shape)
    alone = []
    for row, own in zip(rows, places, strict=True):
        log_p = _own_forward(model, row, own[: len(row)])
        parts = _parts(model, row[None], own[None, : len(row)], own[None, : len(row)])[0]
        _refuse_if_other(
            model,
            _difference([log_p], [parts]),
            "computes something between its body and its head, or after it, that Errata does not",
            *("logit", "cap", "scal", "multiplier"),
        )
        alone.append(log_p)
    _refuse_if_other(
        model,
        _difference(alone, _parts(model, ids, places, places)),
        "gives different answers to a row in a batch of unequal lengths than alone",
        *("mask", "rope", "window"),
    )
    far = places.clone()
    far[-1] += model.max_positions - len(rows[-1]) - far[-1, 0]
    far.clamp_(max=model.max_positions - 1)
    alone[-1] = _own_forward(model, rows[-1], far[-1, : len(rows[-1])])
    _refuse_if_other(
        model,
        _difference(alone, _parts(model, ids, places, far)),
        "gives other answers next to a row of maximum length than alone",
        *("rope", "position", "window"),
    )


@torch.no_grad()
def check_window(model: Parts) -> None:
    """Compares a row with a window of a few tokens, because real windows are longer than any check.

    Raises:
        UnsupportedModelError: the model's layers attend to other tokens than the view assumes.
    """
    length = min(max(_LENGTHS), model.max_positions)
    row = torch.arange(length, device=model.device) % model.num_embeddings
    places = torch.arange(length, device=model.device)
    with model.narrowed(_NARROW_WINDOW) as has_window:
        if not has_window:
            return
        own = _own_forward(model, row, places)
        difference = _difference([own], _parts(model, row[None], places[None], places[None]))
    _refuse_if_other(
        model,
        difference,
        "attends to other tokens than its configuration states",
        *("window", "layer_types"),
    )


def _rows(model: Parts) -> list[tuple[int, ...]]:
    """Pseudo-random ids with a fixed seed, in all lengths up to the model's maximum."""
    generator = torch.Generator().manual_seed(0)
    lengths = [length for length in _LENGTHS if length <= model.max_positions]
    return [
        tuple(torch.randint(model.num_embeddings, (length,), generator=generator).tolist())
        for length in lengths
    ]


def _own_forward(model: Parts, row: Tensor, positions: Tensor) -> Tensor:
    """Log-probabilities (T, V) fp32 from the model's own forward."""
    hf: Any = model.model
    logits: Tensor = hf(input_ids=row[None], position_ids=positions[None], use_cache=False).logits
    return logits[0].float().log_softmax(dim=-1)


def _parts(model: Parts, ids: Tensor, places: Tensor, shown: Tensor) -> Tensor:
    """Log-probabilities (B, T, V) fp32 through body and head.

    Args:
        model: the model.
        ids: (B, T).
        places: (B, T), indices of the tokens among the keys.
        shown: (B, T), position ids for the model.
    """
    body: Any = model.body
    try:
        output = body(
            input_ids=ids,
            attention_mask=model.attention_mask(places, ids.shape[1]),
            position_ids=shown,
            use_cache=False,
        )
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"{_name(model)} cannot be called with a mask and a position for each token"
            f"{_settings(model, 'alibi', 'attn')}: {error}. Choose another model; supported are "
            f"{', '.join(SUPPORTED)}.",
            model_class=_name(model),
        ) from error
    hidden = output.last_hidden_state
    log_p: Tensor = model.head(hidden).float().log_softmax(dim=-1)
    return log_p


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor] | Tensor) -> float:
    """The maximum over the most likely tokens at all real positions; padding follows them."""
    worst = 0.0
    for log_p, made in zip(expected, found, strict=True):
        tokens = log_p.topk(min(_MOST_LIKELY, log_p.shape[-1]), dim=-1).indices
        both = log_p.gather(-1, tokens), made[: len(log_p)].gather(-1, tokens)
        worst = max(worst, float((both[0] - both[1]).abs().max()))
    return worst


def _refuse_if_other(model: Parts, difference: float, what: str, *fields: str) -> None:
    """Refuses the model; the message lists configuration fields whose names contain `fields`."""
    if not difference <= _TOLERANCE[model.dtype]:
        raise UnsupportedModelError(
            f"{_name(model)} {what}{_settings(model, *fields)}: log-probabilities are off by "
            f"{difference:.3g}. Choose another model; supported are {', '.join(SUPPORTED)}.",
            model_class=_name(model),
            difference=f"{difference:.6g}",
        )


def _name(model: Parts) -> str:
    return type(model.model).__name__


def _settings(model: Parts, *parts: str) -> str:
    """The configuration fields whose names contain one of these parts, as ` (a=1, b=2)`."""
    hf: Any = model.model
    values: dict[str, Any] = hf.config.to_dict()
    found = [
        f"{name}={value!r}"
        for name, value in sorted(values.items())
        if value is not None and any(part in name for part in parts)
    ]
    return f" ({', '.join(found)})" if found else ""
