"""Decides by allocation codes whether an edit claims a query, and which edit.

j = argmin_j Ham(c, c_j); the edit claims the query iff the distance is strictly below ε (ELDER
§3.4). A higher score means a nearer edit, so the score is the negative distance. The other scope
tests are shared with other methods: `editing.scope.by_cosine` and `editing.retriever.gate`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from errata.editing.elder.allocation import pack_codes
from errata.editing.elder.state import ElderContents
from errata.editing.lane.claims import NO_CLAIM, Claim
from errata.editing.lane.reading import decide_over
from errata.editing.lane.search import HammingIndex
from errata.editing.namespaces import Readings


def by_codes(
    contents: ElderContents, index: HammingIndex, queries: Tensor, readings: Readings = None
) -> list[Claim]:
    """Decides by the nearest allocation code; among equal distances the newest edit wins.

    Args:
        contents: of the lane, with learned experts and at least one edit.
        index: searches the codes.
        queries: q, (n, d_q).
        readings: the namespaces that each query's prompt reads.
    """
    learned = contents.learned
    assert learned is not None
    with torch.inference_mode():
        codes = pack_codes(learned.experts.codes(queries)).cpu()

    def in_namespace(namespace: str, rows: Sequence[int], hidden: frozenset[str]) -> list[Claim]:
        repository = contents.inventory.repository_of(namespace)
        if repository.num_rows == len(hidden):
            return [NO_CLAIM] * len(rows)
        known = contents.codes[namespace]
        left = None
        if hidden:  # while a canary is open that supersedes them
            left = torch.ones(len(known), dtype=torch.bool)
            left[repository.rows_of(hidden)] = False
            known = known[left]
        distances, found = index.nearest(known, codes[list(rows)])
        if left is not None:
            found = left.nonzero()[:, 0][found]
        return [
            Claim(repository.name_of(row), -float(distance), -learned.limit)
            for distance, row in zip(distances.tolist(), found.tolist(), strict=True)
        ]

    return decide_over(contents.inventory, len(queries), readings, in_namespace)
