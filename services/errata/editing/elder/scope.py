"""Cheap scope tests: idf-weighted embeddings, and limits that are calibrated on held-out text."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.causal_lm import CausalLM
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Experts, Shape
from errata.editing.elder.queries import queries_of
from errata.editing.prompts import tokenise
from errata.errors import StartupError

_NUM_TEXTS = 1_000
_FEWEST_WORDS, _MOST_WORDS = 4, 16  # of a held-out prompt


@dataclass(frozen=True, eq=False, slots=True)
class HeldOut:
    """Prompts that no edit is about, as the scope tests see them.

    Attributes:
        queries: q, (m, d_q) fp32; empty where no test goes by them.
        idf: inverse document frequency of each token, (V) fp32; empty where no test goes by it.
        vectors: `weighted` of the prompts, (m, d) fp32.
    """

    queries: Tensor
    idf: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, model: CausalLM, config: ElderConfig, text: Iterable[str]) -> HeldOut:
        """Reads paragraphs, of which each gives one prompt: its first words.

        Raises:
            StartupError: none of them can be used.
        """
        nothing = torch.zeros(0, device=model.device)
        is_set = config.epsilon is not None or config.threshold is not None
        if config.scope == "retriever" or (is_set and config.scope != "idf"):
            return cls(nothing, nothing, nothing)
        paragraphs = list(itertools.islice(text, _NUM_TEXTS))
        prompts = [
            " ".join(words[:_MOST_WORDS])
            for words in map(str.split, paragraphs)
            if len(words) >= _FEWEST_WORDS
        ]
        lengths = [len(ids) for ids in model.tokenizer(prompts)["input_ids"]] if prompts else []
        prompts = [p for p, n in zip(prompts, lengths, strict=True) if n <= model.max_positions]
        if not prompts:
            raise StartupError(
                f"the statistics text has no paragraph of {_FEWEST_WORDS} words that the model can "
                "read; a scope test cannot be calibrated on it. Give other text, or set its limit."
            )
        if config.scope == "idf":
            idf = document_frequencies(model, paragraphs)
            return cls(nothing, idf, weighted(model, idf, prompts))
        return cls(queries_of(model, Shape.of(model, config), prompts), nothing, nothing)


def document_frequencies(model: CausalLM, paragraphs: Sequence[str]) -> Tensor:
    """log((1 + n) / (1 + n_t)) of each token t, where n_t of n paragraphs have it; (V) fp32."""
    seen: Counter[int] = Counter()
    for paragraph in paragraphs:
        seen.update(set(model.tokenizer(paragraph)["input_ids"]))
    counts = torch.zeros(len(model.embeddings.get_parameter("weight")))
    for token, count in seen.items():
        counts[token] = count
    return ((1 + len(paragraphs)) / (1 + counts)).log().to(model.device)


@torch.no_grad()
def weighted(model: CausalLM, idf: Tensor, prompts: Sequence[str]) -> Tensor:
    """Σ_t idf_t · embed(t) over each prompt's tokens, of length 1; (n, d) fp32."""
    rows = [tokenise(model, prompt).ids for prompt in prompts]
    owner = torch.tensor([n for n, row in enumerate(rows) for _ in row], device=model.device)
    tokens = torch.tensor([token for row in rows for token in row], device=model.device)
    each = model.embeddings(tokens).float() * idf[tokens, None]
    total = torch.zeros(len(rows), model.d, device=model.device).index_add(0, owner, each)
    return unit(total)


def unit(vectors: Tensor) -> Tensor:
    """Of length 1, (n, d); zero vectors stay."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def limit_of(config: ElderConfig, held_out: HeldOut, experts: Experts, stored: Tensor) -> float:
    """ε or τ: configured, or such that `false_claims` of the held-out prompts are claimed.

    Args:
        config: of the lane.
        held_out: prompts that no edit is about.
        experts: as they are after the fit.
        stored: what claims are decided by: queries (n, d_q) for `codes`, keys otherwise.

    Returns:
        0 for `retriever`, whose sentinel is the limit.
    """
    if config.scope == "retriever":
        return 0.0
    if config.scope == "codes":
        if config.epsilon is not None:
            return float(config.epsilon)
        nearest = hamming(experts.codes(held_out.queries), experts.codes(stored)).amin(1)
        # The (allowed + 1)-th nearest is the first that must not be claimed: dist < ε is false.
        return float(nearest.sort().values[_allowed(config, nearest)])
    if config.threshold is not None:
        return config.threshold
    asked = held_out.vectors if config.scope == "idf" else unit(held_out.queries)
    highest = (asked @ stored.T).amax(1)
    return float(highest.sort(descending=True).values[_allowed(config, highest)])


def _allowed(config: ElderConfig, values: Tensor) -> int:
    return min(int(config.false_claims * len(values)), len(values) - 1)


def hamming(codes: Tensor, others: Tensor) -> Tensor:
    """Distances (n, m) int64 between codes (n, L, N) and (m, L, N) bool."""
    a, b = codes.flatten(1).float(), others.flatten(1).float()
    return (a.sum(1)[:, None] + b.sum(1) - 2 * a @ b.T).round().long()
