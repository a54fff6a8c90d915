"""Calibrates ELDER's scope tests: allocation codes, and cosines of queries or embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Experts, Shape
from errata.editing.elder.neighbours import names_in
from errata.editing.elder.queries import queries_of
from errata.editing.model.causal_lm import CausalLM
from errata.editing.scope import (
    allowed,
    calibrated_cosine,
    document_frequencies,
    held_out_prompts,
    mean_embeddings,
    unit,
)


@dataclass(frozen=True, eq=False, slots=True)
class HeldOut:
    """Prompts that no edit is about, in the form that the scope tests use.

    Attributes:
        queries: q, (m, d_q) fp32, for `codes` used only where no edit has a neighbour; empty if the
            scope test does not use them.
        names: of other subjects, for the edits' neighbours (`elder.neighbours`); empty if the scope
            test does not use them.
        idf: inverse document frequency of each token, (V) fp32; empty if the scope test does not
            use it.
        vectors: mean embeddings weighted by idf, of length 1, (m, d) fp32; empty without idf.
    """

    queries: Tensor
    names: tuple[str, ...]
    idf: Tensor
    vectors: Tensor

    @staticmethod
    def are_needed(config: ElderConfig) -> bool:
        """Whether a lane with this configuration needs held-out prompts."""
        if config.scope == "retriever":
            return False
        return config.scope == "idf" or (config.epsilon is None and config.threshold is None)

    @classmethod
    def of(cls, model: CausalLM, config: ElderConfig, paragraphs: Sequence[str]) -> HeldOut:
        """Takes the first words of each paragraph as one prompt.

        Raises:
            StartupError: no paragraph is usable.
        """
        empty = torch.zeros(0, device=model.device)
        if not cls.are_needed(config):
            return cls(empty, (), empty, empty)
        prompts = held_out_prompts(model, paragraphs)
        if config.scope == "idf":
            idf = document_frequencies(model, paragraphs)
            return cls(empty, (), idf, unit(mean_embeddings(model, prompts, idf)))
        queries = queries_of(model, Shape.of(model, config), prompts)
        names = names_in(paragraphs) if config.calibrates_codes else ()
        return cls(queries, names, empty, empty)


def limit_of(
    config: ElderConfig,
    held_out: HeldOut,
    experts: Experts,
    stored: Tensor,
    neighbours: Sequence[Tensor] = (),
) -> float:
    """ε or τ: as configured, or such that a share `false_claims` of held-out prompts is claimed.

    Args:
        config: of the lane.
        held_out: prompts that no edit is about.
        experts: after the fit.
        stored: the edits' vectors that decide claims: queries (n, d_q) for `codes`, else keys.
        neighbours: queries (m, d_q) of each edit's neighbours, for `codes`; m can be 0.

    Returns:
        The limit; 0 for `retriever`, whose sentinel is the limit.
    """
    if config.scope == "retriever":
        return 0.0
    if config.scope == "codes":
        if config.epsilon is not None:
            return float(config.epsilon)
        withheld = [queries for queries in neighbours if len(queries)]
        asked = torch.cat(withheld).to(stored.device) if withheld else held_out.queries
        nearest = hamming(experts.codes(asked), experts.codes(stored)).amin(1)
        # The (allowed + 1)-th nearest is the first that must not be claimed: dist < ε is false.
        limit = float(nearest.sort().values[allowed(config.false_claims, len(nearest))])
        return max(1.0, limit)  # with 0 no edit would claim its own prompt
    if config.threshold is not None:
        return config.threshold
    vectors = held_out.vectors if config.scope == "idf" else unit(held_out.queries)
    return calibrated_cosine(vectors, stored, config.false_claims)


def hamming(codes: Tensor, others: Tensor) -> Tensor:
    """Distances (n, m) int64 between codes (n, L, N) and (m, L, N) bool."""
    a, b = codes.flatten(1).float(), others.flatten(1).float()
    return (a.sum(1)[:, None] + b.sum(1) - 2 * a @ b.T).round().long()
