"""Does a model, taken apart into body and head, compute what it computes as a whole?

Some causal LMs scale or cap what their head gives, and some choose position embeddings by the
longest row of a batch. Errata calls body and head itself, for rows of different lengths together,
so it would answer wrongly with either: such models are refused by name, before they serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from errata.errors import UnsupportedModelError

_LENGTHS = (1, 2, 5, 40, 11)
# Of log-probabilities, in nats: kernels differ between shapes, by more where numbers have 8 bits.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
_MOST_LIKELY = 32  # tokens of a position that are compared: tails are all noise


class Parts(Protocol):
    """What is checked: a `CausalLM`."""

    model: nn.Module
    body: nn.Module
    head: nn.Module
    max_positions: int
    num_embeddings: int

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""

    def attention_mask(self, positions: Tensor, length: int) -> Any:
        """What each position may attend to."""


@torch.no_grad()
def check_forward(model: Parts) -> None:
    """Compares log-probabilities of a mixed batch with transformers' own forward, row by row.

    1. Each row alone, through body and head: nothing may happen between them or behind the head.
    2. All rows together, right-padded.
    3. The same with one row at the last positions that the model takes.

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
            "computes something between or behind its body and its head that Errata does not",
            *("logit", "cap", "scal", "multiplier"),
        )
        alone.append(log_p)
    _refuse_if_other(
        model,
        _difference(alone, _parts(model, ids, places, places)),
        "answers otherwise in a batch of unequal rows than alone",
        *("mask", "rope", "window"),
    )
    far = places.clone()
    far[-1] += model.max_positions - len(rows[-1]) - far[-1, 0]
    far.clamp_(max=model.max_positions - 1)
    alone[-1] = _own_forward(model, rows[-1], far[-1, : len(rows[-1])])
    _refuse_if_other(
        model,
        _difference(alone, _parts(model, ids, places, far)),
        "answers otherwise beside a row of the greatest length than alone",
        *("rope", "position", "window"),
    )


def _rows(model: Parts) -> list[tuple[int, ...]]:
    """Random ids, always the same; the lengths that the model takes."""
    generator = torch.Generator().manual_seed(0)
    lengths = [length for length in _LENGTHS if length <= model.max_positions]
    return [
        tuple(torch.randint(model.num_embeddings, (length,), generator=generator).tolist())
        for length in lengths
    ]


def _own_forward(model: Parts, row: Tensor, positions: Tensor) -> Tensor:
    """Log-probabilities (T, V) fp32 as the model itself gives them."""
    hf: Any = model.model
    logits: Tensor = hf(input_ids=row[None], position_ids=positions[None], use_cache=False).logits
    return logits[0].float().log_softmax(dim=-1)


def _parts(model: Parts, ids: Tensor, places: Tensor, shown: Tensor) -> Tensor:
    """Log-probabilities (B, T, V) fp32 through body and head.

    Args:
        model: the model.
        ids: (B, T).
        places: (B, T), where the tokens stand among the keys.
        shown: (B, T), where the model is told that they stand.
    """
    body: Any = model.body
    hidden = body(
        input_ids=ids,
        attention_mask=model.attention_mask(places, ids.shape[1]),
        position_ids=shown,
        use_cache=False,
    ).last_hidden_state
    log_p: Tensor = model.head(hidden).float().log_softmax(dim=-1)
    return log_p


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor] | Tensor) -> float:
    """The greatest among the likeliest tokens of all real positions; padding is behind them."""
    worst = 0.0
    for log_p, made in zip(expected, found, strict=True):
        tokens = log_p.topk(min(_MOST_LIKELY, log_p.shape[-1]), dim=-1).indices
        both = log_p.gather(-1, tokens), made[: len(log_p)].gather(-1, tokens)
        worst = max(worst, float((both[0] - both[1]).abs().max()))
    return worst


def _refuse_if_other(model: Parts, difference: float, what: str, *fields: str) -> None:
    """Refuses the model; `fields` are in the names of configuration fields to be told."""
    if not difference <= _TOLERANCE[model.dtype]:
        raise UnsupportedModelError(
            f"{_name(model)} {what}{_told(model, *fields)}: log-probabilities are off by "
            f"{difference:.3g}. Choose another model.",
            model_class=_name(model),
            difference=f"{difference:.6g}",
        )


def _name(model: Parts) -> str:
    return type(model.model).__name__


def _told(model: Parts, *parts: str) -> str:
    """The fields of the configuration whose names have one of these parts, as ` (a=1, b=2)`."""
    hf: Any = model.model
    values: dict[str, Any] = hf.config.to_dict()
    found = [
        f"{name}={value!r}"
        for name, value in sorted(values.items())
        if value is not None and any(part in name for part in parts)
    ]
    return f" ({', '.join(found)})" if found else ""
