"""Chooses the LoRAs of an edit: a k-subset of N at each layer, one allocation per fact.

Edits of the same prompt are about one fact and share an allocation. So do edits with the same
subject and answer: rephrases of a fact that are edits of their own (the paper's groups of equal
labels). All other allocations of a bank differ. The fact alone seeds a draw, so the same log gives
the same allocations on every writer. If another fact already has the drawn allocation, the fact's
next draw is tried.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection

import torch
from torch import Tensor

from errata.errors import LaneFullError

_MAX_DRAWS = 1_000


def allocate(
    fact: str, taken: Collection[bytes], num_layers: int, num_experts: int, top_k: int
) -> Tensor:
    """The allocation P of a fact, (L, N) bool with k ones in each row.

    Args:
        fact: hex digest of what the edit is about.
        taken: packed allocations (`pack_code`) of other facts.
        num_layers: L.
        num_experts: N.
        top_k: k.

    Raises:
        LaneFullError: no draw was free; nearly all C(N, k)^L allocations are taken.
    """
    for draw in range(_MAX_DRAWS):
        rng = random.Random(f"{fact}/{draw}")
        allocation = torch.zeros(num_layers, num_experts, dtype=torch.bool)
        for layer in range(num_layers):
            allocation[layer, rng.sample(range(num_experts), top_k)] = True
        if pack_code(allocation) not in taken:
            return allocation
    total = capacity(num_layers, num_experts, top_k)
    raise LaneFullError(
        f"{len(taken):,} of {total:,} allocations are taken ({top_k} of {num_experts} experts in "
        f"each of {num_layers} layers); open a new lane with more experts or layers.",
        taken=len(taken),
    )


class Allocator:
    """The allocations of a bank's edits."""

    def __init__(self, num_layers: int, num_experts: int, top_k: int) -> None:
        """None is taken yet."""
        self._sizes = num_layers, num_experts, top_k
        self._of_fact: dict[str, Tensor] = {}
        self._of_answer: dict[str, Tensor] = {}
        self._taken: set[bytes] = set()

    def keep(self, fact: str, answer: str, allocation: Tensor) -> None:
        """Records the allocation of an edit."""
        self._of_fact[fact] = self._of_answer[answer] = allocation
        self._taken.add(pack_code(allocation))

    def take(self, fact: str, answer: str) -> Tensor:
        """The allocation of a new edit: that of its fact or of its answer, or else a new one.

        Args:
            fact: hex digest of what the edit is about.
            answer: hex digest of its subject and target.

        Raises:
            LaneFullError: as `allocate`.
        """
        found = self._of_fact.get(fact)
        if found is None:
            found = self._of_answer.get(answer)
        if found is None:
            found = allocate(fact, self._taken, *self._sizes)
        self.keep(fact, answer, found)
        return found


def capacity(num_layers: int, num_experts: int, top_k: int) -> int:
    """The number of distinct allocations, C(N, k)^L: the number of facts that a lane can hold."""
    return int(math.comb(num_experts, top_k) ** num_layers)


def pack_code(code: Tensor) -> bytes:
    """The bits of an allocation or code, layer by layer, in ⌈L·N/8⌉ bytes.

    Args:
        code: (L, N) bool.
    """
    return bytes(pack_codes(code[None])[0].tolist())


def pack_codes(codes: Tensor) -> Tensor:
    """Packs (n, L, N) bool into (n, ⌈L·N/8⌉) uint8, lowest bit first, padded with zeros."""
    flat = codes.flatten(1).to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -flat.shape[1] % 8))
    weights = 2 ** torch.arange(8, device=codes.device, dtype=torch.int64)
    bits = flat.reshape(len(flat), flat.shape[1] // 8, 8)
    packed = (bits.long() * weights).sum(-1)
    return packed.to(torch.uint8)
