"""The query q of a prompt: the input of routers and codes, one vector per sequence.

It is read at the last real prompt token, which the attention mask gives, before anything that the
lane changes, so it depends on frozen weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.elder.experts import Shape
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import pad_right, positions, tokenise

_CHUNK = 64
_TINY = 1e-12


class _Read(Exception):
    """Ends a forward pass when its query has been read."""


def query_module(model: CausalLM, shape: Shape) -> nn.Module:
    """The module whose input is the query: the first adapted block, or its projection."""
    layer = shape.layers[0]
    if shape.query == "hidden":
        return model.blocks[layer]
    return model.down(layer) if shape.projection == "down" else model.up(layer)


def as_query(shape: Shape, states: Tensor) -> Tensor:
    """q, (n, d_q) fp32, from the input of the query's module at the last prompt tokens.

    Hidden states are scaled to a mean square of 1: their length carries little information, and
    routers with the same initialisation would be sharp in one model and flat in another.
    """
    states = states.float()
    if shape.query == "input":
        return states
    return states / states.square().mean(-1, keepdim=True).sqrt().clamp(min=_TINY)


def queries_of(model: CausalLM, shape: Shape, prompts: Sequence[str]) -> Tensor:
    """q of prompts, (n, d_q) fp32, by forward passes that stop where q is read."""
    return queries_of_rows(model, shape, [tokenise(model, text).ids for text in prompts])


@torch.no_grad()
def queries_of_rows(model: CausalLM, shape: Shape, rows: Sequence[Sequence[int]]) -> Tensor:
    """As `queries_of`, of tokenised prompts; those of similar length are read together."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    read = torch.zeros(len(rows), shape.d_q, device=model.device)
    for start in range(0, len(rows), _CHUNK):
        chunk = order[start : start + _CHUNK]
        read[chunk] = _read(model, shape, [rows[number] for number in chunk])
    return read


def _read(model: CausalLM, shape: Shape, rows: Sequence[Sequence[int]]) -> Tensor:
    ids, mask = pad_right(model, rows)
    with reading(model, query_module(model, shape)) as read:
        try:
            model.body(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions(mask),
                use_cache=False,
            )
        except _Read:
            pass
    last = mask.sum(1) - 1
    return as_query(shape, read[0][torch.arange(len(rows), device=last.device), last])


@contextmanager
def reading(model: CausalLM, module: nn.Module) -> Iterator[list[Tensor]]:
    """Records the input (B, T, …) of a module and stops the forward pass there."""
    read: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Any, ...]) -> None:
        read.append(model.by_row(args[0]))
        raise _Read

    handle = module.register_forward_pre_hook(record)
    try:
        yield read
    finally:
        handle.remove()
