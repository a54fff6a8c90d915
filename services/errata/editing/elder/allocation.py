"""Which LoRAs an edit is meant for: a k-subset of N at each layer, one draw for each fact.

Facts that the same prompt asks for share an allocation; all others differ. A draw is seeded by the
fact alone, so that the same log gives the same allocations on every writer; where a draw is taken
already, the fact's next draw is tried.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection

import torch
from torch import Tensor

from errata.errors import LaneFullError

_MOST_DRAWS = 1_000


def allocate(
    fact: str, taken: Collection[bytes], num_layers: int, num_experts: int, top_k: int
) -> Tensor:
    """P of a fact, (L, N) bool with k ones in each row.

    Args:
        fact: hex digest of what the edit is about.
        taken: `pack_code` of the allocations that other facts have.
        num_layers: L.
        num_experts: N.
        top_k: k.

    Raises:
        LaneFullError: no free allocation was drawn; the space C(N, k)^L is all but full.
    """
    for draw in range(_MOST_DRAWS):
        rng = random.Random(f"{fact}/{draw}")
        made = torch.zeros(num_layers, num_experts, dtype=torch.bool)
        for layer in range(num_layers):
            made[layer, rng.sample(range(num_experts), top_k)] = True
        if pack_code(made) not in taken:
            return made
    most = capacity(num_layers, num_experts, top_k)
    raise LaneFullError(
        f"{len(taken):,} facts have allocations, and {num_layers} layers with {top_k} of "
        f"{num_experts} experts offer {most:,}; open a new lane with more experts or layers.",
        taken=len(taken),
    )


def capacity(num_layers: int, num_experts: int, top_k: int) -> int:
    """C(N, k)^L, how many facts can have an allocation of their own."""
    return int(math.comb(num_experts, top_k) ** num_layers)


def pack_code(code: Tensor) -> bytes:
    """The bits of an allocation or code, layer by layer, in ⌈L·N/8⌉ bytes.

    Args:
        code: (L, N) bool.
    """
    return bytes(pack_codes(code[None])[0].tolist())


def pack_codes(codes: Tensor) -> Tensor:
    """(n, L, N) bool → (n, ⌈L·N/8⌉) uint8, the first bit lowest, zeros behind the last."""
    flat = codes.flatten(1).to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -flat.shape[1] % 8))
    weights = 2 ** torch.arange(8, device=codes.device, dtype=torch.int64)
    bits = flat.reshape(len(flat), flat.shape[1] // 8, 8)
    packed = (bits.long() * weights).sum(-1)
    return packed.to(torch.uint8)
