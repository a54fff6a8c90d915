"""Scope tests without training: cosines with thresholds that are calibrated on held-out text.

The decision whether an edit claims a prompt affects quality more than how the edit changes the
answer. These tests are cheap; only the learned gate (`editing.retriever.gate`) distinguishes a
rephrase from a related prompt.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from errata.editing.lane.claims import NO_CLAIM, Claim
from errata.editing.lane.inventory import Inventory
from errata.editing.lane.reading import decide_over
from errata.editing.lane.repository import Repository
from errata.editing.lane.search import InnerProductIndex, nearest_visible
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import text_ids, tokenise
from errata.editing.namespaces import Readings
from errata.errors import StartupError

NUM_PARAGRAPHS = 1_000
_FEWEST_WORDS, _MOST_WORDS = 4, 16  # of a held-out prompt
_CANDIDATES = 4


def first_paragraphs(text: Iterable[str]) -> list[str]:
    """The first paragraphs of a text, as many as calibration reads."""
    return list(itertools.islice(text, NUM_PARAGRAPHS))


def held_out_prompts(model: CausalLM, paragraphs: Sequence[str]) -> list[str]:
    """Prompts that no edit should claim: the first words of each paragraph.

    Raises:
        StartupError: no paragraph is usable.
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
            "read; a scope test cannot be calibrated on it. Use other text, or set the threshold."
        )
    return prompts


def document_frequencies(model: CausalLM, paragraphs: Sequence[str]) -> Tensor:
    """log((1 + n) / (1 + n_t)) for each token t, which n_t of n paragraphs contain; (V) fp32."""
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
    """Σ_t w_t·embed(t) / Σ_t w_t over each prompt's tokens except special ones; (n, d) fp32.

    Args:
        model: with the input embeddings.
        prompts: n prompts.
        weights: w, (V) fp32; None means 1 for every token.
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
    """Normalises vectors to length 1, (n, d); zero vectors remain zero."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def allowed(false_claims: float, num: int) -> int:
    """The number of `num` held-out prompts that a calibrated test may claim; less than `num`."""
    return min(int(false_claims * num), num - 1)


def calibrated_cosine(held_out: Tensor, stored: Tensor, false_claims: float) -> float:
    """The threshold τ at which a given share of held-out prompts is claimed.

    Args:
        held_out: (m, d), unit vectors.
        stored: (n, d), at least one unit vector.
        false_claims: the share, 0 to 1.
    """
    highest = (held_out @ stored.T).amax(1)
    order = highest.sort(descending=True).values
    return float(order[allowed(false_claims, len(order))])


def by_cosine(
    inventory: Inventory,
    limit: float,
    index: InnerProductIndex,
    vectors: Tensor,
    readings: Readings = None,
) -> list[Claim]:
    """Edit j = argmax_j cos(x, x_j) claims x iff the cosine is above τ, strictly.

    Of equal cosines, the newest edit wins.

    Args:
        inventory: its keys are unit vectors.
        limit: τ.
        index: searches the keys.
        vectors: (n, width), unit vectors.
        readings: the namespaces that each vector's prompt reads.
    """

    def in_namespace(namespace: str, rows: Sequence[int], hidden: frozenset[str]) -> list[Claim]:
        asked = vectors if len(rows) == len(vectors) else vectors[list(rows)]
        return _nearest(inventory.repository_of(namespace), limit, index, asked, hidden)

    return decide_over(inventory, len(vectors), readings, in_namespace)


def _nearest(
    repository: Repository,
    limit: float,
    index: InnerProductIndex,
    vectors: Tensor,
    hidden: frozenset[str],
) -> list[Claim]:
    if repository.num_rows == len(hidden):
        return [NO_CLAIM] * len(vectors)
    rows = repository.rows_of(hidden)
    found = nearest_visible(index, repository, vectors, _CANDIDATES, rows)
    known = found >= 0
    keys = repository.keys[found.clamp(min=0).to(repository.keys.device)].double()
    scores = (keys * vectors.double()[:, None]).sum(-1).cpu().masked_fill(~known, -torch.inf)
    best = scores.amax(dim=1)
    winners = torch.where(scores == best[:, None], found, -1).amax(dim=1)
    return [
        Claim(repository.name_of(row), score, limit)
        for row, score in zip(winners.tolist(), best.tolist(), strict=True)
    ]
