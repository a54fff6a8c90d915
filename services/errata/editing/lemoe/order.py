"""Which edits one expert learns: like ones together (LEMoE §4.3).

High similarity within a batch and low similarity between batches is what keeps an edit's key near
its own expert's anchor. The paper clusters all edits in advance; a running system has the pending
ones only, and fills each batch to the same size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import structlog
import torch
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import euclidean_distances
from torch import Tensor

from errata.editing.edit import Edit
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import join
from errata.editing.scope import mean_embeddings, unit

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Similarity:
    """Mean cosines of pairs of edits.

    Attributes:
        within: of the same batch; None if no batch has two.
        between: of different batches; None with one batch.
    """

    within: float | None
    between: float | None


def plan_order(
    model: CausalLM, config: LemoeConfig, edits: Sequence[Edit], seed: int, num_batches: int = 0
) -> list[list[int]]:
    """Parts a window of pending edits into batches.

    Args:
        model: its input embeddings say which edits are alike.
        config: of the lane.
        edits: in log order.
        seed: of the clusters' first centres.
        num_batches: at most as many as edits; as few as `expert_edits` allows if 0.

    Returns:
        Numbers of edits, each once; in a batch ascending.
    """
    n = len(edits)
    k = num_batches or math.ceil(n / config.expert_edits)
    if config.order == "log" and not num_batches:
        bounds = range(config.expert_edits, n, config.expert_edits)
        return [part.tolist() for part in np.split(np.arange(n), bounds)]
    if config.order == "log" or k == 1:
        return [part.tolist() for part in np.array_split(np.arange(n), k)]
    vectors = vectors_of(model, edits)
    batches = in_clusters(vectors, k, config.order, seed)
    told = similarity(vectors, batches)
    _log.info("order planned", num_edits=n, num_batches=k, within=told.within, between=told.between)
    return batches


def vectors_of(model: CausalLM, edits: Sequence[Edit]) -> Tensor:
    """Mean input embeddings of prompt and target, of length 1; (n, d) fp32."""
    return unit(
        mean_embeddings(model, [join(edit.prompt, edit.target, edit.separator) for edit in edits])
    )


def in_clusters(
    vectors: Tensor, k: int, how: Literal["kmeans", "hierarchical"], seed: int
) -> list[list[int]]:
    """Clusters of equal size: each vector goes to the nearest centre that has room.

    Those that lose most by going elsewhere choose first.

    Args:
        vectors: (n, d) of length 1.
        k: number of clusters, at most n; their sizes differ by one at most.
        how: to cluster.
        seed: of `kmeans`.
    """
    n = len(vectors)
    points = vectors.cpu().double().numpy()
    if how == "kmeans":
        centres = KMeans(k, n_init=4, random_state=seed % 2**32).fit(points).cluster_centers_
    else:
        labels = AgglomerativeClustering(k, linkage="ward").fit(points).labels_
        centres = np.stack([points[labels == label].mean(0) for label in range(k)])
    far = euclidean_distances(points, centres, squared=True)  # (n, k)
    ranked = far.argsort(1, kind="stable")
    nearest_two = np.sort(far, 1)[:, :2]
    regret = nearest_two[:, -1] - nearest_two[:, 0]
    room = [n // k + (cluster < n % k) for cluster in range(k)]
    batches: list[list[int]] = [[] for _ in range(k)]
    for number in (-regret).argsort(kind="stable").tolist():
        cluster = next(c for c in ranked[number].tolist() if len(batches[c]) < room[c])
        batches[cluster].append(number)
    return [sorted(batch) for batch in batches]


def similarity(vectors: Tensor, batches: Sequence[Sequence[int]]) -> Similarity:
    """How alike edits of the same batch are, and of different ones.

    Args:
        vectors: (n, d) of length 1.
        batches: numbers of vectors.
    """
    order = [number for batch in batches for number in batch]
    owner = torch.tensor([b for b, batch in enumerate(batches) for _ in batch])
    cosines = (vectors[order] @ vectors[order].T).cpu()
    same = owner[:, None] == owner
    pairs = ~torch.eye(len(order), dtype=torch.bool)
    means = [
        float(chosen.mean()) if len(chosen) else None
        for chosen in (cosines[same & pairs], cosines[~same])
    ]
    return Similarity(*means)
