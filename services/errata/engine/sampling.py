"""The next token of every row: greedy, or sampled by the row's own temperature, top-k and top-p.

A sampled row draws from Philox with its own seed and its own token count: the same request with
the same seed gives the same text, in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.random_bits import MASK32, philox

LEAST_TEMPERATURE = 1e-5
"""Below it, the most likely token has probability 1 in fp32."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request's tokens are chosen.

    Attributes:
        temperature: divides the logits; below `LEAST_TEMPERATURE`, 0 included, is greedy.
        top_k: sample from the k most likely tokens; 0 disables.
        top_p: sample from the most likely tokens that together reach this probability; 1 disables.
        seed: 64 bits; makes a request repeatable.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()


class SamplingTable:
    """The sampling parameters of the running rows, as tensors on the device."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        """All rows are greedy."""
        self._temperature = torch.zeros(num_rows, device=device)
        self._top_k = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self._top_p = torch.ones(num_rows, device=device)
        self._seed = torch.zeros(num_rows, 2, dtype=torch.int64, device=device)
        self._sampled = torch.zeros(
            num_rows, dtype=torch.bool
        )  # on the host: decides which rows are sampled

    def put(self, row: int, sampling: Sampling) -> None:
        """Sets the parameters of a row."""
        self._temperature[row] = sampling.temperature
        self._top_k[row] = sampling.top_k
        self._top_p[row] = sampling.top_p
        self._seed[row, 0] = sampling.seed & MASK32
        self._seed[row, 1] = (sampling.seed >> 32) & MASK32
        self._sampled[row] = sampling.temperature >= LEAST_TEMPERATURE

    def move(self, source: int, target: int) -> None:
        """Copies the parameters of a row to another row."""
        for column in (self._temperature, self._top_k, self._top_p, self._seed, self._sampled):
            column[target] = column[source]

    def choose(self, logits: Tensor, first: int, counts: Tensor) -> Tensor:
        """The next tokens of the rows from `first` on.

        Args:
            logits: (B, V).
            first: index of the first row.
            counts: (B,) int64 on the device, tokens that each row has made so far.

        Returns:
            (B,) int64; in greedy rows, ties go to the lowest id.
        """
        chosen = logits.argmax(dim=-1)
        rows = self._sampled[first : first + len(logits)].nonzero().squeeze(-1).to(logits.device)
        if len(rows):
            table = first + rows
            chosen[rows] = _sample(
                logits[rows].float() / self._temperature[table, None],
                self._top_k[table],
                self._top_p[table],
                _uniform(self._seed[table], counts[rows]),
            )
        return chosen


def _uniform(seeds: Tensor, counts: Tensor) -> Tensor:
    """(n,) fp64 in [0, 1): for each seed, the draw with index `counts`."""
    zero = torch.zeros_like(counts)
    words = philox((counts & MASK32, counts >> 32, zero, zero), (seeds[:, 0], seeds[:, 1]))
    return words[:, 0].double() / 2.0**32


def _sample(logits: Tensor, top_k: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF draws from the (n, V) distributions after top-k and top-p."""
    ranked, ids = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(ranked.shape[1], device=ranked.device)
    ranked = ranked.masked_fill((top_k[:, None] > 0) & (rank >= top_k[:, None]), float("-inf"))
    p = ranked.double().softmax(dim=-1)
    before = p.cumsum(dim=-1) - p
    # A token stays if the sum before it is below top_p; the first token always stays.
    p = p.masked_fill((before >= top_p[:, None].double()) & (rank > 0), 0.0)
    cumulative = p.cumsum(dim=-1)
    index = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
    last = (p > 0).sum(dim=-1, keepdim=True) - 1
    return ids.gather(1, torch.minimum(index, last)).squeeze(1)
