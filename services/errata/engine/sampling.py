"""The next token of every row: greedy, or sampled by the row's own temperature, top-k and top-p.

A sampled row draws from Philox with its own seed and its own count of tokens: the same request
with the same seed gives the same text, whichever rows share its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.random_bits import MASK32, philox

LEAST_TEMPERATURE = 1e-5
"""Below it, the likeliest token has all of the probability that fp32 can tell apart."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a request's tokens are chosen.

    Attributes:
        temperature: below `LEAST_TEMPERATURE`, 0 included, is greedy.
        top_k: only the k likeliest tokens; 0 allows all.
        top_p: only the likeliest tokens that together reach this probability; 1 allows all.
        seed: 64 bits; with it, a request is repeatable.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()


class SamplingTable:
    """The sampling of the rows that run, as tensors on the device."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        """All rows are greedy."""
        self._temperature = torch.zeros(num_rows, device=device)
        self._top_k = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self._top_p = torch.ones(num_rows, device=device)
        self._seed = torch.zeros(num_rows, 2, dtype=torch.int64, device=device)
        self._sampled = torch.zeros(num_rows, dtype=torch.bool)  # on the host: steers

    def put(self, row: int, sampling: Sampling) -> None:
        """Sets a row."""
        self._temperature[row] = sampling.temperature
        self._top_k[row] = sampling.top_k
        self._top_p[row] = sampling.top_p
        self._seed[row, 0] = sampling.seed & MASK32
        self._seed[row, 1] = (sampling.seed >> 32) & MASK32
        self._sampled[row] = sampling.temperature >= LEAST_TEMPERATURE

    def move(self, source: int, target: int) -> None:
        """Copies a row's setting to another row."""
        for column in (self._temperature, self._top_k, self._top_p, self._seed, self._sampled):
            column[target] = column[source]

    def choose(self, logits: Tensor, first: int, counts: Tensor) -> Tensor:
        """The next tokens of the rows from `first` on.

        Args:
            logits: (B, V).
            first: the batch's first row.
            counts: (B,) int64 on the device, tokens that each row has made so far.

        Returns:
            (B,) int64; ties of greedy rows go to the lowest id.
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
    """(n,) fp64 in [0, 1): draw number `counts` of each seed."""
    zero = torch.zeros_like(counts)
    words = philox((counts & MASK32, counts >> 32, zero, zero), (seeds[:, 0], seeds[:, 1]))
    return words[:, 0].double() / 2.0**32


def _sample(logits: Tensor, top_k: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF draws from the (n, V) distributions that are left after top-k and top-p."""
    ranked, ids = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(ranked.shape[1], device=ranked.device)
    ranked = ranked.masked_fill((top_k[:, None] > 0) & (rank >= top_k[:, None]), float("-inf"))
    p = ranked.double().softmax(dim=-1)
    before = p.cumsum(dim=-1) - p
    # A token stays if those before it fall short of top_p: the first one always does.
    p = p.masked_fill((before >= top_p[:, None].double()) & (rank > 0), 0.0)
    cumulative = p.cumsum(dim=-1)
    index = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
    last = (p > 0).sum(dim=-1, keepdim=True) - 1
    return ids.gather(1, torch.minimum(index, last)).squeeze(1)
