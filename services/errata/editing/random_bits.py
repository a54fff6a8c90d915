"""Random bits as a function of seed and counter alone, the same on every machine.

Philox4x32-10 (Salmon et al., 2011) in integer tensor operations. It has no state: CPU and GPU agree
bit for bit, only the seed has to be transmitted, and a row's random bits do not depend on the other
rows of its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int | Tensor, int | Tensor]
) -> Tensor:
    """Philox4x32-10 for many counters.

    Args:
        counter: four words, each (n,) int64 with a 32-bit value.
        key: two 32-bit words, each one number for all counters or (n,) int64.

    Returns:
        (n, 4) int64, each entry 32 random bits.
    """
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(x0, _MULTIPLIERS[0])
        high1, low1 = _multiply(x2, _MULTIPLIERS[1])
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & MASK32, (k1 + _WEYL[1]) & MASK32
    return torch.stack([x0, x1, x2, x3], dim=-1)


def _multiply(words: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    # Multiplies 16-bit halves: a 64-bit product overflows int64, whose wrapping is not guaranteed.
    low, high = words & 0xFFFF, words >> 16
    bottom = low * factor
    upper = high * factor + (bottom >> 16)
    return upper >> 16, ((upper & 0xFFFF) << 16) | (bottom & 0xFFFF)
