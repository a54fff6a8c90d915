"""A continuous prompt before a row's own prompt, or inside it (RECIPE).

The engine counts its positions: tokens, cache and masks make room for them. Embeddings replace
those of the tokens at its positions; what deepens the prompt is added at the entry of blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from errata.editing.effects.columns import widened
from errata.editing.effects.effect import BatchEffect, Effect, EffectHooks, EffectTable, TableShape
from errata.editing.model.causal_lm import CausalLM


@dataclass(frozen=True, eq=False, slots=True)
class Prefix(Effect):
    """A continuous prompt.

    Attributes:
        embeddings: (l, d), in place of token embeddings.
        after: how many of the prompt's tokens come before it: 0, 1 to follow the BOS token, or
            those before the user's words in a conversation.
        deep: layer → (l, d), added to what enters that block at the prompt's positions.
    """

    embeddings: Tensor
    after: int = 0
    deep: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def num_positions(self) -> int:
        """The prompt's length, l."""
        return len(self.embeddings)

    def behind(self, num_tokens: int) -> Self:
        """The continuous prompt behind at least `num_tokens` tokens."""
        return replace(self, after=max(self.after, num_tokens))

    def new_table(self, shape: TableShape) -> PrefixTable:
        """An empty table of continuous prompts."""
        return PrefixTable(shape)


@dataclass(frozen=True, eq=False, slots=True)
class PrefixBatch(BatchEffect):
    """The continuous prompts at the positions of one pass.

    Attributes:
        is_prefix: (B, T) bool, which positions belong to one.
        embeddings: (B, T, d), what those positions hold.
        deep: layer → (B, T, d), what is added there to what enters the block.
    """

    is_prefix: Tensor
    embeddings: Tensor
    deep: Mapping[int, Tensor] = field(default_factory=dict)

    def new_hooks(self, model: CausalLM) -> PrefixHooks:
        """Hooks on the embeddings and on the blocks that deepen prompts."""
        return PrefixHooks(model)


class PrefixTable(EffectTable[Prefix]):
    """The continuous prompts of the rows that run."""

    def __init__(self, shape: TableShape) -> None:
        """No row has one."""
        self._device, self._dtype = shape.device, shape.dtype
        self._has_prefix = torch.zeros(shape.num_rows, dtype=torch.bool)
        self._embeddings = torch.zeros(
            shape.num_rows, 0, shape.width, device=shape.device, dtype=shape.dtype
        )
        self._deep: dict[int, Tensor] = {}  # as `_embeddings`, by layer

    def put(self, row: int, effect: Prefix) -> None:
        """Gives a free row a prompt."""
        length = len(effect.embeddings)
        self._embeddings = widened(self._embeddings, length)
        for layer in self._deep.keys() | effect.deep.keys():
            column = self._deep.get(layer)
            self._deep[layer] = widened(
                torch.zeros_like(self._embeddings) if column is None else column,
                self._embeddings.shape[1],
            )
            self._deep[layer][row] = 0  # an earlier prompt may have been deepened there
        self._embeddings[row, :length] = effect.embeddings.to(self._device, self._dtype)
        for layer, added in effect.deep.items():
            self._deep[layer][row, :length] = added.to(self._device, self._dtype)
        self._has_prefix[row] = True

    def free(self, row: int) -> None:
        """Takes the prompt from a row."""
        self._has_prefix[row] = False

    def move(self, source: int, target: int) -> None:
        """Moves a row's prompt to a free row."""
        for column in (self._has_prefix, self._embeddings, *self._deep.values()):
            column[target] = column[source]
        self._has_prefix[source] = False

    def view(self, first: int, num_rows: int) -> None:
        """None: after its positions, a prompt acts through keys and values alone."""
        return None

    def view_inserted(self, first: int, inserted: Tensor, offsets: Tensor) -> PrefixBatch | None:
        """What is at the positions that prompts take; None if no row has a prompt there."""
        num_rows = len(offsets)
        inside = inserted & self._has_prefix[first : first + num_rows, None]
        if not bool(inside.any()):
            return None
        index = offsets.clamp(0, self._embeddings.shape[1] - 1).to(self._device)
        rows = torch.arange(first, first + num_rows, device=self._device)[:, None]
        return PrefixBatch(
            inside.to(self._device),
            self._embeddings[rows, index],
            {layer: column[rows, index] for layer, column in self._deep.items()},
        )


class PrefixHooks(EffectHooks[PrefixBatch]):
    """Puts continuous prompts into the embeddings, and deepens them at the entry of blocks."""

    def __init__(self, model: CausalLM) -> None:
        """No hook is registered."""
        self._model = model
        self._batch: PrefixBatch | None = None
        self._has_embeddings_hook = False
        self._layers: set[int] = set()

    def register(self, batch: PrefixBatch) -> None:
        """Hooks the embeddings, and the blocks that this batch deepens prompts at."""
        if not self._has_embeddings_hook:
            self._model.embeddings.register_forward_hook(self._put_prefixes)
            self._has_embeddings_hook = True
        for layer in batch.deep.keys() - self._layers:
            block = self._model.blocks[layer]
            block.register_forward_pre_hook(partial(self._deepen, layer), with_kwargs=True)
            self._layers.add(layer)

    def follow(self, batch: PrefixBatch | None) -> None:
        """Applies the prompts of `batch` to the passes that follow."""
        self._batch = batch

    def _put_prefixes(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        batch = self._batch
        if batch is None:
            return output
        return torch.where(batch.is_prefix[..., None], batch.embeddings, output)

    def _deepen(
        self, layer: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        batch = self._batch
        if batch is None or layer not in batch.deep:
            return None
        # Families differ in how they call their blocks.
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        deeper = torch.where(batch.is_prefix[..., None], hidden + batch.deep[layer], hidden)
        if args:
            return (deeper, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": deeper}
