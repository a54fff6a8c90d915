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

_LENGTHS = (1, 2, 5, 11)
# Of log-probabilities, in nats: kernels differ between shapes, by more where numbers have 8 bits.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
_LEAST_PROBABILITY = 1e-3  # of the tokens that are compared: tails are all noise


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

    1. What the model's forward does behind its head: nothing may change the logits.
    2. A batch of unequal rows, right-padded: each as if alone.
    3. The same beside a row at the last positions that the model takes.

    Raises:
        UnsupportedModelError: they differ; the message names the fields of the configuration
            that may be the cause.
    """
    rows = _rows(model)
    alone = []
    for row in rows:
        logits, hidden = _own_forward(model, row)
        if not torch.allclose(model.head(hidden).float(), logits, rtol=1e-5, atol=1e-5):
            raise UnsupportedModelError(
                f"{_name(model)} changes the logits behind its head{_told(model, 'logit', 'cap')}; "
                "Errata reads the head itself and would answer otherwise. Choose another model.",
                model_class=_name(model),
            )
        alone.append(logits.log_softmax(dim=-1))
    ids = pad_sequence([torch.tensor(row, device=model.device) for row in rows], batch_first=True)
    places = torch.arange(ids.shape[1], device=model.device).expand(ids.shape)
    _compare(model, alone, ids, places, places, "in a batch of unequal rows")
    far = places.clone()
    far[-1] += model.max_positions - 1 - int(far[-1].max())
    fields = ("rope", "position", "window")
    _compare(model, alone[:-1], ids, places, far, "beside a row of the greatest length", *fields)


def _rows(model: Parts) -> list[tuple[int, ...]]:
    """Random ids, always the same; the lengths that the model takes."""
    generator = torch.Generator().manual_seed(0)
    lengths = [length for length in _LENGTHS if length <= model.max_positions]
    return [
        tuple(torch.randint(model.num_embeddings, (length,), generator=generator).tolist())
        for length in lengths
    ]


def _own_forward(model: Parts, row: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits (T, V) fp32 as the model itself gives them, and what its head read, (T, d)."""
    read: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        read.append(args[0])

    handle = model.head.register_forward_pre_hook(note)
    try:
        hf: Any = model.model
        ids = torch.tensor([row], device=model.device)
        logits: Tensor = hf(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    return logits[0].float(), read[0][0]


def _compare(
    model: Parts,
    alone: Sequence[Tensor],
    ids: Tensor,
    places: Tensor,
    shown: Tensor,
    where: str,
    *fields: str,
) -> None:
    """Refuses the model if a row of the batch is not as it is alone.

    Args:
        model: the model.
        alone: log-probabilities (T, V) of the rows to compare, the batch's first.
        ids: (B, T).
        places: (B, T), where the tokens stand among the keys.
        shown: (B, T), what the model is told of it.
        where: in what company.
        fields: parts of the names of configuration fields that may be the cause.
    """
    body: Any = model.body
    hidden = body(
        input_ids=ids,
        attention_mask=model.attention_mask(places, ids.shape[1]),
        position_ids=shown,
        use_cache=False,
    ).last_hidden_state
    together = model.head(hidden).float().log_softmax(dim=-1)
    worst = 0.0
    for number, log_p in enumerate(alone):
        counted = log_p.exp() >= _LEAST_PROBABILITY
        difference = (together[number, : len(log_p)] - log_p)[counted].abs()
        worst = max(worst, float(difference.max()))
    if not worst <= _TOLERANCE[model.dtype]:
        raise UnsupportedModelError(
            f"{_name(model)} answers otherwise {where} than alone: log-probabilities are off by "
            f"{worst:.3g}{_told(model, *fields)}. Requests would change one another's answers; "
            "choose another model.",
            model_class=_name(model),
            difference=f"{worst:.6g}",
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
