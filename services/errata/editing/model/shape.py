"""The sizes of an LLM, from its configuration alone: weights, keys and values, activations.

The model is built on torch's meta device, which has shapes and dtypes but no memory, and is run
there where a formula would need to know the family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import DynamicCache

from errata.editing.model.blocks import Blocks, first_output
from errata.editing.model.families import family_of
from errata.editing.model.loading import DTYPES, meta_model, read_config
from errata.errors import InvalidRequestError


@dataclass(frozen=True, eq=False)
class ModelShape:
    """An LLM without weights.

    Attributes:
        name: of the model, as given.
        dtype: of the weights.
        num_layers: number of blocks.
        d: width.
        d_ff: width of the FFN's intermediate.
        num_embeddings: V, number of token ids.
        max_positions: longest sequence.
        num_parameters: P, shared ones counted once.
        num_block_parameters: those of all blocks.
        kv_width: numbers that a position takes in keys and values, over all layers.
    """

    name: str
    dtype: torch.dtype
    num_layers: int
    d: int
    d_ff: int
    num_embeddings: int
    max_positions: int
    num_parameters: int
    num_block_parameters: int
    kv_width: int
    _body: Any = field(repr=False)
    _blocks: Sequence[nn.Module] = field(repr=False)

    @classmethod
    def read(cls, source: str | Path, dtype: str = "float32") -> ModelShape:
        """The sizes of a model folder, of a file such as `config.json`, or of a hub id.

        Raises:
            ModelNotFoundError: there is nothing of this name.
            UnsupportedModelError: not a causal LM, or of no family that can be edited.
            InvalidRequestError: unknown dtype.
        """
        if dtype not in DTYPES:
            raise InvalidRequestError(
                f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}.", field="dtype"
            )
        name, config = str(source), read_config(source)
        model: nn.Module = meta_model(config, name, DTYPES[dtype])
        model.eval().requires_grad_(False)
        family = family_of(model)
        view = Blocks(model, family)
        body, blocks = view.body, view.blocks
        return cls(
            name=name,
            dtype=DTYPES[dtype],
            num_layers=len(blocks),
            d=view.d,
            d_ff=view.d_ff,
            num_embeddings=len(body.get_submodule(family.body.embeddings).get_parameter("weight")),
            max_positions=int(config.max_position_embeddings),
            num_parameters=_count(model),
            num_block_parameters=sum(map(_count, blocks)),
            kv_width=_kv_width(body),
            _body=body,
            _blocks=blocks,
        )

    @property
    def element_bytes(self) -> int:
        """b, the bytes of one number of the weights."""
        return self.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """P·b, the bytes of all weights."""
        return self.num_parameters * self.element_bytes

    @property
    def matrix_numbers(self) -> int:
        """d·d_ff, the numbers in one down projection."""
        return self.d * self.d_ff

    def saved_bytes(self, rows: int, tokens: int, first: int) -> int:
        """What the blocks from `first` on keep for a backward pass to their input.

        One block runs on the meta device, with attention as plain products; weights are frozen.

        Args:
            rows: texts.
            tokens: their length.
            first: 0-based.
        """
        if not rows or first >= self.num_layers:
            return 0
        block = self._blocks[first]
        args, kwargs = self._call_of(block, rows, tokens)
        own = {p.untyped_storage()._cdata for p in block.parameters()}
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage()._cdata not in own:
                kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        hidden = args[0].clone().requires_grad_(True)
        with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
            # The output must live as long as the count: freed storages share their addresses.
            output = first_output(block(hidden, *args[1:], **kwargs))
        per_block = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        del output
        return per_block * (self.num_layers - first)

    def _call_of(
        self, block: nn.Module, rows: int, tokens: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with which the body calls a block."""
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append((args, dict(kwargs)))

        handle = block.register_forward_pre_hook(note, with_kwargs=True)
        ids = torch.zeros(rows, tokens, dtype=torch.int64, device="meta")
        # A mask that is already additive: transformers reads the values of any other.
        mask = torch.zeros(rows, 1, tokens, tokens, dtype=self.dtype, device="meta")
        try:
            with torch.no_grad():
                self._body(input_ids=ids, attention_mask=mask, use_cache=False)
        finally:
            handle.remove()
        return calls[0]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _kv_width(body: Any) -> int:
    cache = DynamicCache()
    ids = torch.zeros(1, 1, dtype=torch.int64, device="meta")
    with torch.no_grad():
        body(input_ids=ids, past_key_values=cache, use_cache=True)
    layers: Sequence[Any] = cache.layers
    return sum(layer.keys.numel() + layer.values.numel() for layer in layers)
