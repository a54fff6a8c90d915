"""LEMoE's experts after a run: how alike their edits are, and who is routed to whom."""

from __future__ import annotations

from typing import Any

import torch

from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.hook import LemoeView
from errata.editing.lemoe.order import similarity, vectors_of
from errata.evaluation.systems.lane import LaneSystem


def expert_figures(system: LaneSystem) -> dict[str, Any]:
    """What there is to say of a LEMoE lane; nothing of others.

    Returns:
        JSON: `within` and `between`, mean cosines of pairs of edits (mean embeddings of prompt and
        target) of the same expert and of different ones; `routing`, for each expert the shares of
        its edits' prompts that go to each expert, the last column those that go to none;
        `consistency`, the share that goes to its own, all edits alike; `bytes` of an expert.
    """
    view = system.view()
    if not isinstance(view, LemoeView) or not isinstance(system.config, LemoeConfig):
        return {}
    held = view.held
    edits = system.edits
    owner = torch.tensor([held.member_of[edit.name] for edit in edits])
    batches = [(owner == number).nonzero()[:, 0].tolist() for number in range(len(held.members))]
    alike = similarity(vectors_of(system.model, edits), batches)
    none = len(held.members)
    claims = view.claims([edit.prompt for edit in edits])
    chosen = iter(view.experts_of([claim for claim in claims if claim.holds]))
    routed = torch.tensor([next(chosen)[0][0] if claim.holds else none for claim in claims])
    matrix = torch.zeros(none, none + 1)
    matrix.index_put_((owner, routed), torch.ones(len(edits)), accumulate=True)
    return {
        "within": alike.within,
        "between": alike.between,
        "routing": (matrix / matrix.sum(1, keepdim=True)).tolist(),
        "consistency": float((owner == routed).float().mean()),
        "bytes": [member.num_bytes for member in held.members],
    }
