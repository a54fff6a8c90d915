"""Checks by numbers that the modules of a model's blocks have the roles that their names suggest.

The editing methods compute with parts of blocks: AdaPLE's targets are outputs of down projections,
LEMoE's experts are FFNs beside the frozen one. Names alone do not prove that a block uses its
modules in this way; one short forward pass does.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.model.blocks import Blocks, first_output
from errata.editing.model.families import unsupported

# As a share of the largest number in a sum: a pass in 16-bit formats rounds every part.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.05}
_SHAPE = (2, 5)  # rows and tokens of the pass


class _Record:
    """What enters and leaves the modules of one forward pass, (B, T, …) each, by module."""

    def __init__(self, model: Blocks) -> None:
        self._model = model
        self.inputs: dict[nn.Module, Tensor] = {}
        self.outputs: dict[nn.Module, Tensor] = {}

    def note(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """A forward hook; copies, because a block can add to a module's output in place."""
        first = args[0] if args else kwargs.get("hidden_states")
        if isinstance(first, Tensor):
            self.inputs[module] = self._model.by_row(first).clone()
        self.outputs[module] = self._model.by_row(first_output(output)).clone()


@torch.no_grad()
def check_blocks(model: Blocks, embeddings: nn.Module, norm: nn.Module) -> None:
    """Verifies the roles of the modules in a forward pass of a few tokens.

    1. The body ends with the final norm of the last block's output.
    2. A block adds attention and FFN, after their norms and times the multiplier, to its input.
    3. The FFN is down(act(gate(x)) ⊙ up(x)), or down(act(up(x))) without a gate.
    4. The down projection is `down_weight`.

    Args:
        model: the view.
        embeddings: token embeddings.
        norm: the final norm.

    Raises:
        UnsupportedModelError: one of these does not hold; the message names it.
    """
    record, hidden = _run(model, embeddings, norm)
    last, ended = record.outputs[model.blocks[-1]], record.inputs[norm]
    _require(model, last, ended, "something follows its last block")
    _require(model, record.outputs[norm], hidden, "something follows its final norm")
    for layer, block in enumerate(model.blocks):
        added = [
            record.outputs[model.attention_norm(layer) or model.attention(layer)],
            record.outputs[model.ffn_norm(layer) or model.down(layer)],
        ]
        stream = record.inputs[block] + model.residual_multiplier * (added[0] + added[1])
        found = record.outputs[block]
        _require(model, stream, found, f"block {layer} adds something else to the residual stream")
        x, inner = record.inputs[model.up(layer)], record.inputs[model.down(layer)]
        up, gate = model.up_part(record.outputs[model.up(layer)]), model.gate(layer)
        activation = model.activation(layer)
        made = activation(up) if gate is None else activation(gate(x)) * up
        _require(model, made, inner, f"the FFN of layer {layer} computes something else")
        bias = getattr(model.down(layer), "bias", None)
        product = inner @ model.down_weight(layer).T + (0.0 if bias is None else bias)
        own = record.outputs[model.down(layer)]
        _require(model, product, own, f"the down projection of layer {layer} is not its weight")


def _run(model: Blocks, embeddings: nn.Module, norm: nn.Module) -> tuple[_Record, Tensor]:
    """What was recorded, and the body's output."""
    record = _Record(model)
    modules = {norm}
    for layer, block in enumerate(model.blocks):
        parts = (model.attention(layer), model.attention_norm(layer), model.ffn_norm(layer))
        for module in (block, *parts, model.up(layer), model.down(layer)):
            if module is not None:
                modules.add(module)
    weight = embeddings.get_parameter("weight")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(weight), _SHAPE, generator=generator).to(weight.device)
    with ExitStack() as hooks:
        for module in modules:
            handle = module.register_forward_hook(record.note, with_kwargs=True)
            hooks.callback(handle.remove)
        output = model.body(input_ids=ids, use_cache=False)
    return record, output.last_hidden_state


def _require(model: Blocks, expected: Tensor, found: Tensor, what: str) -> None:
    """Refuses the model if two tensors differ by more than rounding."""
    size = max(float(expected.abs().max()), float(found.abs().max()))
    difference = float((expected.float() - found.float()).abs().max())
    if not difference <= _TOLERANCE[found.dtype] * size:
        raise unsupported(model.model, f"{what} (off by {difference:.3g} of {size:.3g})")
