"""A lane's edits in the plane, placed by t-SNE.

RECIPE: continuous prompts among the LLM's word embeddings. ELDER: allocation codes of edits, of
their rephrasings, and of unrelated prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sklearn.manifold import TSNE
from torch import Tensor

from errata.editing.elder.queries import queries_of
from errata.editing.elder.view import ElderView
from errata.editing.model.prompts import tokenise
from errata.evaluation.data.record import Record
from errata.evaluation.systems.lane import LaneSystem

_MAX_EDITS = 200
_NUM_WORDS = 2_000


def prompt_plane(system: LaneSystem, records: Sequence[Record]) -> dict[str, Any]:
    """Places a RECIPE lane's continuous prompts among the LLM's word embeddings.

    Args:
        system: a RECIPE lane with active edits.
        records: their edits; the first ones are shown.

    Returns:
        JSON: points (x, y) of `words`, of `targets`, and of each prompt row, `prompt 1`,
        `prompt 2`, ….
    """
    shown = records[:_MAX_EDITS]
    model = system.model
    prompts = torch.cat([commit.artifact.tensors["prompts"] for commit in system.commits])
    words = model.embeddings.get_parameter("weight").detach().float().cpu()
    target_ids = sorted(
        {
            token
            for record in shown
            for row in [tokenise(model, record.prompt, record.target_new)]
            for token in row.ids[-row.num_target :]
        }
    )
    generator = torch.Generator().manual_seed(0)
    other_ids = torch.randperm(len(words), generator=generator)[:_NUM_WORDS]
    rows = prompts[: len(shown), 0].float()  # the part that lies among word embeddings
    groups = {"words": words[other_ids], "targets": words[target_ids]}
    groups |= {f"prompt {i + 1}": rows[:, i] for i in range(rows.shape[1])}
    return _placed(groups, "euclidean")


def code_plane(system: LaneSystem, records: Sequence[Record]) -> dict[str, Any]:
    """Places the allocation codes of an ELDER lane's prompts.

    Args:
        system: an ELDER lane with active edits.
        records: their edits; the first ones are shown.

    Returns:
        JSON: points (x, y) of `edits`, `rephrasings` and `unrelated` prompts.
    """
    shown = records[:_MAX_EDITS]
    view = system.view()
    assert isinstance(view, ElderView), "suites ask for it with ELDER only"
    learned = view.contents.learned
    assert learned is not None, "edits are active"
    asked = {
        "edits": [record.prompt for record in shown],
        "rephrasings": [text for record in shown for text in record.rephrases],
        "unrelated": [text for record in shown for text, _ in record.locality],
    }
    experts = learned.experts
    codes = {
        name: experts.codes(queries_of(system.model, experts.shape, texts)).flatten(1).cpu()
        for name, texts in asked.items()
        if texts
    }
    return _placed(codes, "hamming")


def _placed(groups: Mapping[str, Tensor], metric: str) -> dict[str, Any]:
    everything = torch.cat(list(groups.values())).numpy()
    perplexity = min(30.0, (len(everything) - 1) / 3)
    init = "pca" if metric == "euclidean" else "random"
    made = TSNE(random_state=0, init=init, perplexity=perplexity, metric=metric)
    placed = made.fit_transform(everything)
    found: dict[str, Any] = {}
    start = 0
    for name, vectors in groups.items():
        found[name] = placed[start : start + len(vectors)].tolist()
        start += len(vectors)
    return found
