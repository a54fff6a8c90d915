"""The modules of vLLM's models that edits change, in place of vLLM's own.

In a compiled model each of them calls one operator of the graph, which runs as it does eagerly:
what a step's rows get, and an edited weight, are no part of what was compiled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.library import Library
from vllm.utils.torch_utils import direct_register_custom_op

from errata_vllm.worker.effects import FlatEffects
from errata_vllm.worker.structure import Structure

_called: list[Any] = []  # by the number that a compiled graph holds


def put_in(structure: Structure, effects: FlatEffects) -> None:
    """Replaces embeddings and FFNs; must come before the model is compiled."""
    structure.body.embed_tokens = EditedEmbeddings(structure, effects)
    for layer, (block, ffn) in enumerate(zip(structure.body.layers, structure.ffns, strict=True)):
        block.mlp = EditedFfn(ffn, layer, effects, is_sharded=structure.num_ranks > 1)


class EditedEmbeddings(nn.Module):
    """Token embeddings, with continuous prompts in their places."""

    def __init__(self, structure: Structure, effects: FlatEffects) -> None:
        """Takes over the model's embeddings."""
        super().__init__()
        self.inner = structure.embeddings
        self._width: int = structure.body.config.hidden_size
        self._dtype = structure.dtype
        self._effects = effects
        self._number = len(_called)
        _called.append(self.run)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (n,) → (n, d)."""
        if torch.compiler.is_compiling():
            ops: Any = torch.ops.errata
            embedded: Tensor = ops.embed(ids, self._number, self._width, self._dtype)
            return embedded
        return self.run(ids)

    def run(self, ids: Tensor) -> Tensor:
        """As `forward`, never compiled."""
        hidden: Tensor = self.inner(ids)
        self._effects.on_embeddings(hidden)
        return hidden


class EditedFfn(nn.Module):
    """A gated FFN, W_down(silu(W_gate x) ⊙ W_up x), with what the step's plan adds.

    Of a compiled model, everything before the down projection is compiled.
    """

    def __init__(self, ffn: Any, layer: int, effects: FlatEffects, *, is_sharded: bool) -> None:
        """Takes over the model's FFN."""
        super().__init__()
        self.inner = ffn
        self._linear = ffn.down_proj
        self._is_sharded = is_sharded
        self._layer = layer
        self._effects = effects
        self._number = len(_called)
        _called.append(self.run_down)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (n, d) → (n, d)."""
        gate_up, _ = self.inner.gate_up_proj(inputs)
        inner = self.inner.act_fn(gate_up)
        if torch.compiler.is_compiling():
            ops: Any = torch.ops.errata
            output: Tensor = ops.down(inputs, gate_up, inner, self._number)
            return output
        return self.run_down(inputs, gate_up, inner)

    def run_down(self, inputs: Tensor, gate_up: Tensor, inner: Tensor) -> Tensor:
        """The down projection and all that edits do, never compiled.

        Args:
            inputs: (n, d), of the FFN.
            gate_up: (n, 2·d_ff), the gate's outputs first; d_ff counts the rank's neurons.
            inner: (n, d_ff), what enters the down projection of the unedited model.

        Returns:
            (n, d), summed over the ranks.
        """
        effects = self._effects
        if not effects.acting:
            return self._down(inner)
        inner = effects.on_inner(self._layer, inputs, gate_up, inner)
        output = self._down(inner)
        effects.on_output(self._layer, inputs, gate_up, inner, output)
        return output

    def _down(self, inner: Tensor) -> Tensor:
        linear = self._linear
        if self._is_sharded:
            whole: Tensor = linear(inner)[0]  # reduced over the ranks
            return whole
        # Without the calls of the module, which cost time on CPUs.
        output: Tensor = linear.quant_method.apply(linear, inner, linear.bias)
        return output


def _embed(ids: Tensor, number: int, width: int, dtype: torch.dtype) -> Tensor:
    embedded: Tensor = _called[number](ids)
    return embedded


def _embed_shape(ids: Tensor, number: int, width: int, dtype: torch.dtype) -> Tensor:
    return ids.new_empty((*ids.shape, width), dtype=dtype)


def _down(inputs: Tensor, gate_up: Tensor, inner: Tensor, number: int) -> Tensor:
    output: Tensor = _called[number](inputs, gate_up, inner)
    return output


def _down_shape(inputs: Tensor, gate_up: Tensor, inner: Tensor, number: int) -> Tensor:
    return torch.empty_like(inputs)


_operators = Library("errata", "DEF")
direct_register_custom_op("embed", _embed, fake_impl=_embed_shape, target_lib=_operators)
direct_register_custom_op("down", _down, fake_impl=_down_shape, target_lib=_operators)
