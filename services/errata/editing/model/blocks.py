"""The blocks of a causal language model: modules by role, and projections as (d_out, d_in)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from errata.editing.model.families import Family, unsupported


def first_output(output: Any) -> Tensor:
    """The output of a module, or the first of several outputs."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


class Blocks:
    """The blocks of a model, with the same names for all families.

    Attributes:
        model: the Hugging Face model.
        body: the decoder without head.
        blocks: the transformer blocks in order.
        num_layers: number of blocks.
        d: width.
        d_ff: width of the FFN's intermediate.
        residual_multiplier: factor of what attention and FFN add to the residual stream; 1 in most
            families.
    """

    def __init__(self, model: nn.Module, family: Family) -> None:
        """Finds the modules.

        Raises:
            UnsupportedModelError: a projection is no plain linear layer, or layers differ in shape.
        """
        hf: Any = model
        self.model = model
        self._family = family
        self.body: nn.Module = model.get_submodule(family.body.path)
        self.blocks: list[nn.Module] = list(self.body.get_submodule(family.body.blocks).children())
        self.num_layers = len(self.blocks)
        multiplier = getattr(hf.config, "residual_multiplier", None)
        self.residual_multiplier = 1.0 if multiplier is None else float(multiplier)
        self._rows: tuple[int, int] | None = None
        self._check_projections()
        self.d, self.d_ff = self.down_weight(0).shape
        self._check_shapes()
        if not family.block.ffn:  # such blocks flatten rows and positions for their projections
            for block in self.blocks:
                block.register_forward_pre_hook(self._note_rows, with_kwargs=True)

    def _check_projections(self) -> None:
        for layer in range(self.num_layers):
            for module in (self.up(layer), self.down(layer)):
                if not isinstance(module, nn.Linear | Conv1D):
                    raise unsupported(
                        self.model,
                        f"a projection of layer {layer} is a {type(module).__name__}, not a plain "
                        "linear layer",
                    )

    def _check_shapes(self) -> None:
        for layer in range(self.num_layers):
            if tuple(self.down_weight(layer).shape) != (self.d, self.d_ff):
                raise unsupported(
                    self.model,
                    f"the FFN of layer {layer} is not of shape ({self.d}, {self.d_ff}) like the "
                    "first",
                    layer=str(layer),
                )

    @property
    def adds_plainly(self) -> bool:
        """Whether outputs of attention and FFN are added to the residual stream as they are.

        If not, a norm or a multiplier stands between the down projection and the stream.
        """
        block = self._family.block
        has_norm = block.ffn_norm is not None or block.attention_norm is not None
        return not has_norm and self.residual_multiplier == 1.0

    def attention(self, layer: int) -> nn.Module:
        """The attention of a block; its output (or the first of its outputs) is (B, T, d)."""
        return self.blocks[layer].get_submodule(self._family.block.attention)

    def attention_norm(self, layer: int) -> nn.Module | None:
        """The norm of the attention's output, before it enters the residual stream."""
        name = self._family.block.attention_norm
        return None if name is None else self.blocks[layer].get_submodule(name)

    def ffn(self, layer: int) -> nn.Module:
        """The module that holds the FFN's projections; OPT's are modules of the block itself."""
        return self.blocks[layer].get_submodule(self._family.block.ffn)

    def ffn_norm(self, layer: int) -> nn.Module | None:
        """The norm of the down projection's output, before it enters the residual stream."""
        name = self._family.block.ffn_norm
        return None if name is None else self.blocks[layer].get_submodule(name)

    def down(self, layer: int) -> nn.Module:
        """The FFN's down projection; its output is that of the FFN. See `by_row` for shapes."""
        return self.ffn(layer).get_submodule(self._family.ffn.down)

    def up(self, layer: int) -> nn.Module:
        """The FFN's first projection; where gate and up are one product, it computes both."""
        return self.ffn(layer).get_submodule(self._family.ffn.up)

    def up_part(self, output: Tensor) -> Tensor:
        """The part (…, d_ff) of an output of `up` without the gate, as a view."""
        return output[..., self.d_ff :] if self._family.ffn.is_fused else output

    def up_weight(self, layer: int) -> Tensor:
        """A (d_ff, d) view of the current weight of `up`, without the gate's."""
        weight = _weight(self.up(layer))
        return weight[self.d_ff :] if self._family.ffn.is_fused else weight

    @property
    def is_fused(self) -> bool:
        """Whether one projection computes gate and up."""
        return self._family.ffn.is_fused

    def gate(self, layer: int) -> Callable[[Tensor], Tensor] | None:
        """The projection (…, d) → (…, d_ff) that gates `up`; None if the FFN has no gate."""
        ffn = self._family.ffn
        if ffn.is_fused:
            both, end = self.up(layer), self.d_ff
            bias: Tensor | None = getattr(both, "bias", None)
            return lambda x: linear(x, _weight(both)[:end], None if bias is None else bias[:end])
        return None if ffn.gate is None else self.ffn(layer).get_submodule(ffn.gate)

    def activation(self, layer: int) -> nn.Module:
        """The FFN's nonlinearity."""
        return self.ffn(layer).get_submodule(self._family.ffn.activation)

    def by_row(self, states: Tensor) -> Tensor:
        """What enters or leaves a projection, as a view (B, T, …): OPT's are called with (B·T, …).

        Valid during the forward pass of the projection's block.
        """
        if states.dim() == 3:
            return states
        assert self._rows is not None
        return states.view(*self._rows, states.shape[-1])

    def _note_rows(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        self._rows = (hidden.shape[0], hidden.shape[1])

    def hook_ffn(self, layer: int, change: Callable[[Tensor, Tensor], None]) -> Callable[[], None]:
        """Calls a function after every pass of a layer's FFN, also where it has no own module.

        Args:
            layer: 0-based.
            change: takes the FFN's input and output, (B, T, d) each; may change the output in
                place.

        Returns:
            A function that removes the hook.
        """
        entered: list[Tensor] = []

        def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
            entered[:] = [args[0]]

        def leave(_: nn.Module, __: Any, output: Tensor) -> None:
            change(self.by_row(entered.pop()), self.by_row(output))

        handles = (
            self.up(layer).register_forward_pre_hook(enter),
            self.down(layer).register_forward_hook(leave),
        )

        def remove() -> None:
            for handle in handles:
                handle.remove()

        return remove

    def down_weight(self, layer: int) -> Tensor:
        """A (d, d_ff) view of the down projection's current weight."""
        return _weight(self.down(layer))

    def set_down_weight(self, layer: int, weight: Tensor) -> None:
        """Replaces the weight by a (d, d_ff) one, rounded to the model's dtype.

        The old tensor is not changed; holders of `down_weights` can continue to use it.
        """
        down = self.down(layer)
        own = down.get_parameter("weight")
        stored = weight.T if isinstance(down, Conv1D) else weight
        own.data = torch.empty_like(own.data).copy_(stored)

    def down_weights(self) -> list[Tensor]:
        """The current down projections of all layers, as the model stores them, without a copy."""
        return [self.down(n).get_parameter("weight").data for n in range(self.num_layers)]

    def use_down_weights(self, weights: Sequence[Tensor]) -> None:
        """Makes the model use a result of `down_weights`, without a copy."""
        for layer, weight in enumerate(weights):
            self.down(layer).get_parameter("weight").data = weight


def _weight(projection: nn.Module) -> Tensor:
    """A (d_out, d_in) view of a projection's weight; GPT-2 stores (d_in, d_out)."""
    weight = projection.get_parameter("weight").detach()
    return weight.T if isinstance(projection, Conv1D) else weight
