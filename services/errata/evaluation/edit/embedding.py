"""RECIPE's continuous prompts among the LLM's word embeddings, laid out in a plane by t-SNE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.manifold import TSNE

from errata.editing.causal_lm import CausalLM
from errata.editing.method import Commit
from errata.editing.prompts import tokenise
from errata.evaluation.data.record import Record

_MOST_EDITS = 200
_NUM_WORDS = 2_000


def embedding(
    commits: Sequence[Commit], model: CausalLM, records: Sequence[Record]
) -> dict[str, Any]:
    """Where prompt vectors, target tokens and other tokens of the vocabulary lie.

    Args:
        commits: of a RECIPE lane.
        model: gives word embeddings.
        records: their edits; the first ones are shown.

    Returns:
        JSON: points (x, y) of `words`, `targets`, and of each prompt row: `prompt 1`, `prompt 2`…
    """
    shown = records[:_MOST_EDITS]
    prompts = torch.cat([commit.artifact.tensors["prompts"] for commit in commits])[: len(shown)]
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
    groups = {"words": words[other_ids], "targets": words[target_ids]}
    groups |= {f"prompt {i + 1}": prompts[:, i].float() for i in range(prompts.shape[1])}
    everything = torch.cat(list(groups.values())).numpy()
    perplexity = min(30.0, (len(everything) - 1) / 3)
    placed = TSNE(random_state=0, init="pca", perplexity=perplexity).fit_transform(everything)
    found: dict[str, Any] = {}
    start = 0
    for name, vectors in groups.items():
        found[name] = placed[start : start + len(vectors)].tolist()
        start += len(vectors)
    return found
