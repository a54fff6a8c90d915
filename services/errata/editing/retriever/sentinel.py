"""Does an edit claim this query, and which: the highest score, if it beats the sentinel's.

j = argmax r̃_q·r_j over all edits; it claims q iff r̃_q·r_j > r̃_q·r_Θ, strictly. The sentinel's
score is the query's own threshold. Only the prompt is asked: neither a target nor anything that was
generated may enter the query.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.lane.contract import Claim
from errata.editing.lane.inventory import fact_of
from errata.editing.lane.repository import Repository
from errata.editing.lane.search import InnerProductIndex
from errata.editing.retriever.lane_model import LaneModel

_CANDIDATES = 4


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """When an edit claims a query.

    Attributes:
        own_prompt: an edit claims exactly its own prompt, whatever the scores are.
        threshold: the cosine with the query that a key must exceed, the same for all queries; None
            compares each score with the sentinel's.
    """

    own_prompt: bool = True
    threshold: float | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Retriever:
    """What decides claims: a snapshot that is cheap to keep, because its parts are shared.

    Attributes:
        model: the lane model.
        sentinel: r_Θ, (d_r) fp32.
        repository: the newest edit of each fact.
    """

    model: LaneModel
    sentinel: Tensor
    repository: Repository


def route(
    retriever: Retriever, rule: ClaimRule, index: InnerProductIndex, texts: Sequence[str]
) -> list[Claim]:
    """Decides on a whole batch of prompts: one pass of the encoder, one search.

    Scores of candidates are computed again in fp64, pair by pair, so that a decision does not hang
    on the search's arithmetic; equal scores go to the newest edit. A prompt that is an edit's own
    goes to that edit unread, with a score of ∞ above a threshold of −∞
    (`ClaimRule.own_prompt`).
    """
    own: list[str] = [""] * len(texts)
    if rule.own_prompt:
        own = [retriever.repository.edit_about(fact_of(text)) for text in texts]
    others = [text for text, edit in zip(texts, own, strict=True) if not edit]
    decided = iter(_read(retriever, rule, index, others) if others else ())
    return [Claim(edit, math.inf, -math.inf) if edit else next(decided) for edit in own]


def _read(
    retriever: Retriever, rule: ClaimRule, index: InnerProductIndex, texts: Sequence[str]
) -> list[Claim]:
    tokens = retriever.model.encoder.tokens(texts)
    with torch.inference_mode():
        queries = retriever.model.queries(tokens)
    return decide(retriever, rule, index, queries, tokens.cut)


def decide(
    retriever: Retriever,
    rule: ClaimRule,
    index: InnerProductIndex,
    queries: Tensor,
    cut: Sequence[bool],
) -> list[Claim]:
    """Decides on encoded queries.

    Args:
        retriever: of the lane.
        rule: of the lane.
        index: searches the repository.
        queries: r̃_q, (n, d_r) fp32.
        cut: for each query, whether its start was left out.
    """
    exact = queries.double()
    thresholds = (exact * retriever.sentinel.double()).sum(-1).cpu()
    repository = retriever.repository
    if not repository.num_rows:
        return [Claim("", -torch.inf, t, c) for t, c in zip(thresholds.tolist(), cut, strict=True)]
    rows = index.nearest(repository, queries, min(_CANDIDATES, repository.num_rows))
    known = rows >= 0
    keys = repository.keys[rows.clamp(min=0).to(repository.keys.device)].double()  # (n, k, d_r)
    scores = (keys * exact[:, None]).sum(-1).cpu().masked_fill(~known, -torch.inf)
    best = scores.amax(dim=1)
    winners = torch.where(scores == best[:, None], rows, -1).amax(dim=1)
    if rule.threshold is not None:
        norms = repository.keys[winners.to(repository.keys.device)].double().norm(dim=-1)
        thresholds = rule.threshold * (exact.norm(dim=-1) * norms).cpu()
    return [
        Claim(repository.name_of(row), score, threshold, was_cut)
        for row, score, threshold, was_cut in zip(
            winners.tolist(), best.tolist(), thresholds.tolist(), cut, strict=True
        )
    ]
