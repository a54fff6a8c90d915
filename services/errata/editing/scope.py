"""Scope tests that need no training: cosines, with limits calibrated on held-out text.

Whether a prompt belongs to an edit decides more than how the edit answers it. These tests are
cheap; RECIPE's learned gate (`editing.retriever.gate`) can tell a rephrasing from a neighbour.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from errata.editing.lane.claims import Claim
from errata.editing.lane.repository import Repository
from errata.editing.lane.search import InnerProductIndex
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import text_ids, tokenise
from errata.errors import StartupError

NUM_PARAGRAPHS = 1_000
_FEWEST_WORDS, _MOST_WORDS = 4, 16  # of a held-out prompt
_CANDIDATES = 4


def first_paragraphs(text: Iterable[str]) -> list[str]:
    """As many paragraphs as calibration reads."""
    return list(itertools.islice(text, NUM_PARAGRAPHS))


def held_out_prompts(model: CausalLM, paragraphs: Sequence[str]) -> list[str]:
    """Prompts that no edit is about: the first words of each paragraph.

    Raises:
        StartupError: no paragraph can be used.
    """
    prompts = [
        " ".join(words[:_MOST_WORDS])
        for words in map(str.split, paragraphs)
        if len(words) >= _FEWEST_WORDS
    ]
    lengths = [len(ids) for ids in text_ids(model, prompts)]
    prompts = [p for p, n in zip(prompts, lengths, strict=True) if n <= model.max_positions]
    if not prompts:
        raise StartupError(
            f"the statistics text has no paragraph of {_FEWEST_WORDS} words that the model can "
            "read; a scope test cannot be calibrated on it. Give other text, or set its limit."
        )
    return prompts


def document_frequencies(model: CausalLM, paragraphs: Sequence[str]) -> Tensor:
    """log((1 + n) / (1 + n_t)) of each token t, where n_t of n paragraphs have it; (V) fp32."""
    seen: Counter[int] = Counter()
    for ids in text_ids(model, paragraphs):
        seen.update(set(ids))
    counts = torch.zeros(len(model.embeddings.get_parameter("weight")))
    for token, count in seen.items():
        counts[token] = count
    return ((1 + len(paragraphs)) / (1 + counts)).log().to(model.device)


@torch.no_grad()
def mean_embeddings(
    model: CausalLM, prompts: Sequence[str], weights: Tensor | None = None
) -> Tensor:
    """Σ_t w_t·embed(t) / Σ_t w_t over each prompt's tokens, special ones left out; (n, d) fp32.

    Args:
        model: whose input embeddings.
        prompts: n of them.
        weights: w, (V) fp32; all 1 if None.
    """
    special = set(model.tokenizer.all_special_ids)
    rows = [[t for t in tokenise(model, text).ids if t not in special] for text in prompts]
    owner = torch.tensor([n for n, row in enumerate(rows) for _ in row], device=model.device)
    tokens = torch.tensor([token for row in rows for token in row], device=model.device)
    owner, tokens = owner.long(), tokens.long()
    w = torch.ones(len(tokens), device=model.device) if weights is None else weights[tokens]
    each = model.embeddings(tokens).float() * w[:, None]
    total = torch.zeros(len(rows), model.d, device=model.device).index_add(0, owner, each)
    count = torch.zeros(len(rows), device=model.device).index_add(0, owner, w)
    return total / count.clamp(min=torch.finfo(torch.float32).tiny)[:, None]


def unit(vectors: Tensor) -> Tensor:
    """Of length 1, (n, d); zero vectors stay."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def allowed(false_claims: float, num: int) -> int:
    """How many of `num` held-out prompts a calibrated test may claim: always fewer than all."""
    return min(int(false_claims * num), num - 1)


def calibrated_cosine(held_out: Tensor, stored: Tensor, false_claims: float) -> float:
    """τ at which that share of held-out prompts would be claimed.

    Args:
        held_out: (m, d) of length 1.
        stored: (n, d) of length 1, at least one.
        false_claims: 0 to 1.
    """
    highest = (held_out @ stored.T).amax(1)
    order = highest.sort(descending=True).values
    return float(order[allowed(false_claims, len(order))])


def by_cosine(
    repository: Repository, limit: float, index: InnerProductIndex, vectors: Tensor
) -> list[Claim]:
    """j = argmax_j cos(x, x_j); a claim iff it is above τ, strictly. Equal ones: the newest edit.

    Args:
        repository: with keys of length 1, at least one.
        limit: τ.
        index: searches the keys.
        vectors: (n, width) of length 1.
    """
    found = index.nearest(repository, vectors, min(_CANDIDATES, repository.num_rows))
    known = found >= 0
    keys = repository.keys[found.clamp(min=0).to(repository.keys.device)].double()
    scores = (keys * vectors.double()[:, None]).sum(-1).cpu().masked_fill(~known, -torch.inf)
    best = scores.amax(dim=1)
    winners = torch.where(scores == best[:, None], found, -1).amax(dim=1)
    return [
        Claim(repository.name_of(row), score, limit)
        for row, score in zip(winners.tolist(), best.tolist(), strict=True)
    ]
