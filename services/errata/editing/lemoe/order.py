"""Groups edits for experts: similar edits together (LEMoE §4.3).

High similarity within a batch and low similarity between batches keep an edit's key near the anchor
of its own expert. The paper clusters all edits in advance; a running system has only the pending
edits, and fills all batches to the same size.
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
    """Splits a window of pending edits into batches.

    Args:
        model: its input embeddings measure the similarity of edits.
        config: of the lane.
        edits: in log order.
        seed: of the clusters' initial centres.
        num_batches: at most the number of edits; 0 makes as few as `expert_edits` allows.

    Returns:
        Indices of edits, each once; ascending within a batch.
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
    mean = similarity(vectors, batches)
    _log.info("order planned", num_edits=n, num_batches=k, within=mean.within, between=mean.between)
    return batches


def vectors_of(model: CausalLM, edits: Sequence[Edit]) -> Tensor:
    """Mean input embeddings of prompt and target, of length 1; (n, d) fp32."""
    return unit(
        mean_embeddings(model, [join(edit.said, edit.target, edit.separator) for edit in edits])
    )


def in_clusters(
    vectors: Tensor, k: int, how: Literal["kmeans", "hierarchical"], seed: int
) -> list[list[int]]:
    """Makes clusters of equal size: each vector joins the nearest centre that has room.

    Vectors whose second choice costs most choose first.

    Args:
        vectors: (n, d) of length 1.
        k: number of clusters, at most n; their sizes differ by at most one.
        how: clustering method.
        seed: of `kmeans`.
    """
    n = len(vectors)
    points = vectors.cpu().double().numpy()
    if how == "kmeans":
        centres = KMeans(k, n_init=4, random_state=seed % 2**32).fit(points).cluster_centers_
    else:
        labels = AgglomerativeClustering(k, linkage="ward").fit(points).labels_
        centres = np.stack([points[labels == label].mean(0) for label in range(k)])
    distances = euclidean_distances(points, centres, squared=True)  # (n, k)
    ranked = distances.argsort(1, kind="stable")
    nearest_two = np.sort(distances, 1)[:, :2]
    regret = nearest_two[:, -1] - nearest_two[:, 0]
    room = [n // k + (cluster < n % k) for cluster in range(k)]
    batches: list[list[int]] = [[] for _ in range(k)]
    for index in (-regret).argsort(kind="stable").tolist():
        cluster = next(c for c in ranked[index].tolist() if len(batches[c]) < room[c])
        batches[cluster].append(index)
    return [sorted(batch) for batch in batches]


def similarity(vectors: Tensor, batches: Sequence[Sequence[int]]) -> Similarity:
    """Measures the similarity of edits within batches and between batches.

    Args:
        vectors: (n, d) of length 1.
        batches: indices of vectors.
    """
    order = [index for batch in batches for index in batch]
    owner = torch.tensor([b for b, batch in enumerate(batches) for _ in batch])
    cosines = (vectors[order] @ vectors[order].T).cpu()
    is_within = owner[:, None] == owner
    is_pair = ~torch.eye(len(order), dtype=torch.bool)
    means = [
        float(chosen.mean()) if len(chosen) else None
        for chosen in (cosines[is_within & is_pair], cosines[~is_within])
    ]
    return Similarity(*means)
