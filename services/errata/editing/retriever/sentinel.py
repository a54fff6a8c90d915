"""The claim rule: the edit with the highest score claims a query if it beats the sentinel's score.

j = argmax r̃_q·r_j over all edits; edit j claims q iff r̃_q·r_j > r̃_q·r_Θ, strictly. The sentinel's
score is thus a threshold for each query. The query is the prompt alone, without a target or any
generated text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat

import torch
from torch import Tensor

from errata.editing.lane.claims import Claim
from errata.editing.lane.inventory import Inventory, fact_of
from errata.editing.lane.reading import decide_over
from errata.editing.lane.repository import Repository
from errata.editing.lane.search import InnerProductIndex, nearest_visible
from errata.editing.namespaces import DEFAULT_ONLY, Reading, Readings
from errata.editing.retriever.gate_model import GateModel

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
    """Decides claims: a snapshot that is cheap to keep, because its parts are shared.

    Attributes:
        model: the gate, or the lane model.
        sentinel: r_Θ, (d_r) fp32.
        repository: the newest edit of each fact, of one namespace.
    """

    model: GateModel
    sentinel: Tensor
    repository: Repository


def route(
    retriever: Retriever,
    inventory: Inventory,
    rule: ClaimRule,
    index: InnerProductIndex,
    texts: Sequence[str],
    readings: Readings = None,
) -> list[Claim]:
    """Decides on a batch of prompts with one pass of the encoder and a search per namespace.

    The candidates' scores are computed again in fp64, pair by pair, so that a decision does not
    depend on the search's arithmetic. Of equal scores, the newest edit wins. A prompt that equals
    an edit's prompt is not encoded: that edit claims it with score ∞ and threshold −∞
    (`ClaimRule.own_prompt`).

    Args:
        retriever: its repository is that of the default namespace.
        inventory: the edits of all namespaces.
        rule: of the lane.
        index: searches the repositories.
        texts: the prompts.
        readings: the namespaces that each prompt reads.
    """
    own: list[str] = [""] * len(texts)
    if rule.own_prompt:
        own = list(map(partial(_own, inventory), texts, readings or repeat(DEFAULT_ONLY)))
    others = [number for number, edit in enumerate(own) if not edit]
    claims = [Claim(edit, math.inf, -math.inf) for edit in own]
    if others:
        tokens = retriever.model.encoder.tokens([texts[number] for number in others])
        with torch.inference_mode():
            queries = retriever.model.queries(tokens)

        def in_namespace(
            namespace: str, rows: Sequence[int], hidden: frozenset[str]
        ) -> list[Claim]:
            found = replace(retriever, repository=inventory.repository_of(namespace))
            asked = queries if len(rows) == len(queries) else queries[list(rows)]
            return decide(found, rule, index, asked, [tokens.cut[row] for row in rows], hidden)

        own_readings = None if readings is None else [readings[number] for number in others]
        made = decide_over(inventory, len(others), own_readings, in_namespace)
        for number, claim, cut in zip(others, made, tokens.cut, strict=True):
            claims[number] = claim if claim.cut or not cut else replace(claim, cut=True)
    return claims


def _own(inventory: Inventory, text: str, reading: Reading) -> str:
    """The newest edit with exactly this prompt; empty if no namespace that is read has one."""
    fact = fact_of(text)
    found = [inventory.repository_of(n).edit_about(fact) for n in inventory.read_by(reading)]
    named = [edit for edit in found if edit]
    return inventory.newest(named) if named else ""


def decide(
    retriever: Retriever,
    rule: ClaimRule,
    index: InnerProductIndex,
    queries: Tensor,
    cut: Sequence[bool],
    hidden: frozenset[str] = frozenset(),
) -> list[Claim]:
    """Decides on encoded queries.

    Args:
        retriever: of the lane.
        rule: of the lane.
        index: searches the repository.
        queries: r̃_q, (n, d_r) fp32.
        cut: for each query, whether the beginning of its prompt was cut off.
        hidden: edits of the repository that claim none of the queries.
    """
    exact = queries.double()
    thresholds = (exact * retriever.sentinel.double()).sum(-1).cpu()
    repository = retriever.repository
    if repository.num_rows == len(hidden):
        return [Claim("", -torch.inf, t, c) for t, c in zip(thresholds.tolist(), cut, strict=True)]
    rows = nearest_visible(index, repository, queries, _CANDIDATES, repository.rows_of(hidden))
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
