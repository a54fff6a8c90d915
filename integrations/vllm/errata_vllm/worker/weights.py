"""Edited down projections of one rank: staged apart from the running model, then swapped in."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor
from vllm.platforms import current_platform

from errata_vllm.worker.structure import Structure


class DownProjections:
    """The down projections of one rank's model."""

    def __init__(self, structure: Structure) -> None:
        """Nothing is staged.

        Args:
            structure: of the rank's model.
        """
        self._structure = structure
        self._staged: dict[int, Tensor] = {}

    def stage(self, data: bytes) -> str:
        """Keeps whole matrices until `commit`, cut to this rank's inputs.

        Args:
            data: safetensors of (d, d_ff) matrices, by the number of their layer.

        Returns:
            SHA-256, hex, of `data`: every rank must have got the same.

        Raises:
            ValueError: a matrix has another shape than the model's.
        """
        staged = {}
        for name, whole in load(data).items():
            layer = int(name)
            linear = self._structure.ffns[layer].down_proj
            expected = (linear.output_size, linear.input_size)
            if tuple(whole.shape) != expected:
                raise ValueError(
                    f"layer {layer} has a down projection of {expected}, not {tuple(whole.shape)}."
                )
            part = whole[:, self._structure.slice_ff(whole.shape[1])].contiguous()
            staged[layer] = part.to(self._structure.device, self._structure.dtype)
        self._staged = staged
        return hashlib.sha256(data).hexdigest()

    def commit(self) -> None:
        """Swaps the staged matrices in; the passes that follow read them."""
        for layer, weight in self._staged.items():
            self._put(self._structure.ffns[layer].down_proj, weight)
        self._staged = {}

    def _put(self, linear: Any, weight: Tensor) -> None:
        if current_platform.is_cpu():
            # On CPUs vLLM has packed the weight and keeps none: the new one is packed as well.
            linear.weight = torch.nn.Parameter(weight, requires_grad=False)
            linear.quant_method.process_weights_after_loading(linear)
        else:  # in place: CUDA graphs keep the address
            linear.weight.data.copy_(weight)
