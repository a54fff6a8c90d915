"""Runs some of a model's blocks again, with the arguments of a recorded forward pass.

Editing measures and optimises around a few blocks. Running the whole model each time would cost
several times as much; rebuilding masks and rotary tables would tie the code to one family. Instead,
one forward pass is recorded, and the calls of its blocks are repeated with other inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from errata.editing.model.blocks import first_output
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import positions


class _Reached(Exception):
    """Ends a forward pass whose remaining modules are not needed."""


class _PrefixCache(DynamicCache):
    """Keys and values of a prefix; once frozen, forward passes read but never extend the cache."""

    frozen = False

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of prefix and suffix, (B, heads, P + S, d_head)."""
        if not self.frozen:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx >= len(self.layers):
            return key_states, value_states
        layer: Any = self.layers[layer_idx]
        return (
            torch.cat([layer.keys, key_states], dim=-2),
            torch.cat([layer.values, value_states], dim=-2),
        )


@dataclass(frozen=True, slots=True)
class Replay:
    """The calls of the blocks `first`… in one forward pass.

    Attributes:
        model: the model; `run` uses its weights at that time.
        first: the first block that can be run.
        hidden: (B, T, d), the input of block `first`.
        calls: for each block from `first`, its arguments without the hidden states.
    """

    model: CausalLM
    first: int
    hidden: Tensor
    calls: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]

    def run(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """Runs blocks `start` … `stop` − 1 on other hidden states of the same shape.

        Returns:
            (B, T, d), the output of the last block.
        """
        for layer in range(start, stop):
            args, kwargs = self.calls[layer - self.first]
            hidden = first_output(self.model.blocks[layer](hidden, *args, **kwargs))
        return hidden

    def rows(self, numbers: Tensor) -> Replay:
        """The same calls for the rows with these indices, (n) int64."""
        size = len(self.hidden)

        def taken(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dim() > 1 and len(value) == size:
                return value[numbers]
            return tuple(map(taken, value)) if isinstance(value, tuple) else value

        calls = tuple(
            (taken(args), {name: taken(value) for name, value in kwargs.items()})
            for args, kwargs in self.calls
        )
        return Replay(self.model, self.first, self.hidden[numbers], calls)


def run_until(module: nn.Module, forward: Callable[[], object]) -> None:
    """Runs a forward pass that ends where it would enter `module`; nothing behind is computed.

    Pre-hooks that `module` already has still see its input.
    """

    def end(_: nn.Module, args: tuple[Any, ...]) -> None:
        raise _Reached

    handle = module.register_forward_pre_hook(end)  # hooks run in the order of registration
    try:
        forward()
    except _Reached:
        pass
    finally:
        handle.remove()


@torch.no_grad()
def capture(
    model: CausalLM, ids: Tensor, mask: Tensor, *, first: int, stop: int | None = None
) -> Replay:
    """Records a forward pass over whole texts.

    Args:
        model: runs up to block `stop` − 1.
        ids: (B, T) int64.
        mask: (B, T) int64, 1 on real tokens.
        first: first block to record.
        stop: end of the blocks to record, exclusive; by default the number of blocks.
    """
    call = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)}
    # No cache: it would grow with each repetition of a call.
    forward = partial(model.body, **call, use_cache=False)
    return _record(model, first, stop or model.num_layers, forward)


@torch.no_grad()
def enter(model: CausalLM, ids: Tensor, mask: Tensor, *, block: int) -> Replay:
    """Records a forward pass that ends at the input of a block.

    Args:
        model: all its blocks must have the same arguments; runs up to block `block` − 1.
        ids: (B, T) int64.
        mask: (B, T) int64, 1 on real tokens.
        block: where the pass ends; 0 costs almost nothing.

    Returns:
        A replay of the blocks from `block` on, all with that block's arguments.
    """
    call = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)}
    forward = partial(model.body, **call, use_cache=False)
    seen = _record(model, block, block, forward)
    return Replay(model, block, seen.hidden, seen.calls * (model.num_layers - block))


@torch.no_grad()
def capture_suffix(
    model: CausalLM, rows: Sequence[Sequence[int]], splits: Sequence[int], *, first: int
) -> Replay:
    """Records a forward pass over suffixes whose prefixes are computed once and cached.

    Column 0 of every row is token `splits[row]`; an edit at that token changes nothing before it.

    Args:
        model: all its blocks run.
        rows: token ids of each text.
        splits: number of prefix ids of each row.
        first: first block to record.

    Returns:
        A replay over (B, S), suffixes padded on the right.
    """
    width = max(splits)
    span = max(len(row) - split for row, split in zip(rows, splits, strict=True))
    ids = torch.full((len(rows), width + span), model.pad_id)
    mask = torch.zeros_like(ids)
    for number, (row, split) in enumerate(zip(rows, splits, strict=True)):
        start = width - split
        ids[number, start : start + len(row)] = torch.tensor(row)
        mask[number, start : start + len(row)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    place = positions(mask)
    cache = _PrefixCache()
    if width:
        model.body(
            input_ids=ids[:, :width],
            attention_mask=mask[:, :width],
            position_ids=place[:, :width],
            past_key_values=cache,
            use_cache=True,
        )
    cache.frozen = True
    call = {
        "input_ids": ids[:, width:],
        "attention_mask": mask,
        "position_ids": place[:, width:],
        "past_key_values": cache,
        "use_cache": True,
    }
    return _record(model, first, model.num_layers, partial(model.body, **call))


def _record(model: CausalLM, first: int, stop: int, forward: Callable[[], object]) -> Replay:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    entered: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not calls:
            entered.append(args[0])
        calls.append((args[1:], dict(kwargs)))

    with ExitStack() as hooks:
        for block in model.blocks[first : max(stop, first + 1)]:
            handle = block.register_forward_pre_hook(note, with_kwargs=True)
            hooks.callback(handle.remove)
        if stop < model.num_layers:
            run_until(model.blocks[stop], forward)
        else:
            forward()
    return Replay(model=model, first=first, hidden=entered[0], calls=tuple(calls))
