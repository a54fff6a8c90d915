"""The layer of a baseline, what it reads there (an FFN's activations), and texts of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.lane.contract import check_layer
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import pad_right
from errata.editing.model.replay import capture
from errata.engine import offline
from errata.engine.sequence import whole_text

_TEXTS, _TEXT_TOKENS = 100, 8  # about as long as a prompt


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


def own_texts(model: CausalLM, seed: int) -> list[str]:
    """A hundred short texts that the model writes, less the empty ones."""
    length = min(_TEXT_TOKENS, model.max_positions - 1)
    written = offline.write(model, _TEXTS, length, seed)
    texts = [whole_text(model.tokenizer, ids).strip() for ids in written]
    return [text for text in texts if text]
