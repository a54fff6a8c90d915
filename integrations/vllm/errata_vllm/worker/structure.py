"""Where vLLM's models have the modules that effects and deltas act on.

Supported are models whose blocks are those of Llama: a gated FFN `mlp` with a merged
`gate_up_proj` and a row-parallel `down_proj`, behind `model.embed_tokens` and `model.layers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.linear import UnquantizedLinearMethod

SUPPORTED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


@dataclass(frozen=True, eq=False, slots=True)
class Structure:
    """The modules of one rank's model.

    Attributes:
        body: its `embed_tokens` and the `mlp` of its `layers` can be replaced.
        embeddings: token ids → hidden states.
        ffns: in order, each with `gate_up_proj`, `act_fn` and `down_proj`.
        device, dtype: of the weights.
        rank, num_ranks: of tensor parallelism.
    """

    body: Any
    embeddings: nn.Module
    ffns: tuple[Any, ...]
    device: torch.device
    dtype: torch.dtype
    rank: int
    num_ranks: int

    @classmethod
    def of(cls, model: nn.Module, device: torch.device, dtype: torch.dtype) -> Structure:
        """Finds the modules.

        Raises:
            ValueError: the model is of another class, or its FFNs are quantised.
        """
        name = type(model).__name__
        if name not in SUPPORTED:
            raise ValueError(
                f"Errata cannot edit {name} in vLLM; supported are {', '.join(SUPPORTED)}. "
                "Serve it with ERRATA_WORKER__ENGINE=errata."
            )
        body: Any = model.model
        for block in body.layers:
            for linear in (block.mlp.gate_up_proj, block.mlp.down_proj):
                if not isinstance(linear.quant_method, UnquantizedLinearMethod):
                    raise ValueError(
                        f"the FFNs of this {name} are quantised by "
                        f"{type(linear.quant_method).__name__}; Errata edits unquantised FFNs in "
                        "vLLM. Serve the model in bf16 or fp32."
                    )
        return cls(
            body,
            body.embed_tokens,
            tuple(block.mlp for block in body.layers),
            device,
            dtype,
            get_tensor_model_parallel_rank(),
            get_tensor_model_parallel_world_size(),
        )

    def slice_ff(self, size: int) -> slice:
        """This rank's part of `size` FFN neurons."""
        part = size // self.num_ranks
        return slice(self.rank * part, (self.rank + 1) * part)
