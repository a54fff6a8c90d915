"""The layer of a baseline, what it reads there (an FFN's activations), and what it adds there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.lane.contract import check_layer
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import pad_right
from errata.editing.model.replay import capture


def chosen_layer(model: CausalLM, layer: int | None, depth_share: float) -> int:
    """The configured layer, or the one at a share of the depth.

    Raises:
        InvalidRequestError: no such layer.
    """
    if layer is None:
        return int(depth_share * model.num_layers)
    check_layer(layer, model.num_layers, "config.layer")
    return layer


def activations(model: CausalLM, rows: Sequence[Sequence[int]], layer: int) -> Tensor:
    """The inputs of the down projection at each token, (n, T, d_ff) fp32, padded on the right."""
    seen: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen.append(model.by_row(args[0]).float())

    replay = capture(model, *pad_right(model, rows), first=layer)
    handle = model.down(layer).register_forward_hook(note)
    try:
        with torch.no_grad():
            replay.run(replay.hidden, layer, layer + 1)
    finally:
        handle.remove()
    return seen[0]


def prompt_means(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """Means (n, d_ff) over the first tokens of activations (n, T, d_ff)."""
    ends = torch.tensor(lengths, device=hidden.device)[:, None]
    is_prompt = torch.arange(hidden.shape[1], device=hidden.device) < ends
    return (hidden * is_prompt[..., None]).sum(1) / ends


@contextmanager
def added(model: CausalLM, layer: int, more: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Adds to the output of a layer's down projection in every pass.

    Args:
        model: whose passes change.
        layer: of the down projection.
        more: inputs (n, T, d_ff) fp32 → what is added, (n, T, d), or None, which leaves the output
            as it is.
    """

    def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        found = more(model.by_row(args[0]).float())
        return output if found is None else output + found.to(output.dtype).view_as(output)

    handle = model.down(layer).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
