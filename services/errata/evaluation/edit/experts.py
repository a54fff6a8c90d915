"""LEMoE's experts after a run: the similarity of their edits, and where prompts are routed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from errata.editing.lemoe.order import similarity, vectors_of
from errata.editing.lemoe.view import LemoeView
from errata.evaluation.systems.lane import LaneSystem

_SHARES = ("reliability.token", "generality.token")


def expert_figures(
    system: LaneSystem, shares_of: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """How a LEMoE lane distributes its edits over experts.

    Args:
        system: a LEMoE lane with active edits.
        shares_of: prompt of a record → its `judge.shares`.

    Returns:
        JSON: `within` and `between`: mean cosines of pairs of edits (mean embeddings of prompt and
        target) of the same expert and of different experts; `routing`: for each expert the shares
        of its edits' prompts that go to each expert, in the last column to none; `consistency`: the
        share of all edits' prompts that go to their own expert; `bytes` of each expert; `each`: for
        every expert its `edits`, their mean cosine `within` it, and the mean `reliability.token`
        and `generality.token` of the newest records with their prompts.
    """
    view = system.view()
    assert isinstance(view, LemoeView), "suites ask for it with LEMoE only"
    held = view.contents
    edits = system.edits
    owner = torch.tensor([held.expert_of[edit.name] for edit in edits])
    batches = [(owner == number).nonzero()[:, 0].tolist() for number in range(len(held.experts))]
    vectors = vectors_of(system.model, edits)
    alike = similarity(vectors, batches)
    none = len(held.experts)
    claims = view.claims([edit.said for edit in edits])
    chosen = iter(view.experts_of([claim for claim in claims if claim.holds]))
    routed = torch.tensor([next(chosen)[0][0] if claim.holds else none for claim in claims])
    matrix = torch.zeros(none, none + 1)
    matrix.index_put_((owner, routed), torch.ones(len(edits)), accumulate=True)
    return {
        "within": alike.within,
        "between": alike.between,
        "routing": (matrix / matrix.sum(1, keepdim=True)).tolist(),
        "consistency": float((owner == routed).float().mean()),
        "bytes": [expert.num_bytes for expert in held.experts],
        "each": [
            _figures_of(vectors[batch], [shares_of[edits[number].prompt] for number in batch])
            for batch in batches
        ],
    }


def _figures_of(vectors: Tensor, shares: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Figures of one expert's edits."""
    number = len(vectors)
    found: dict[str, Any] = {
        "edits": number,
        "within": similarity(vectors, [range(number)]).within,
    }
    for name in _SHARES:
        values = [share[name] for share in shares if name in share]
        found[name] = sum(values) / len(values) if values else None
    return found
