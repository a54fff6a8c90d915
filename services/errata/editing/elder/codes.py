"""Decides by allocation codes whether an edit claims a query, and which edit.

j = argmin_j Ham(c, c_j); the edit claims the query iff the distance is strictly below ε (ELDER
§3.4). A higher score means a nearer edit, so the score is the negative distance. The other scope
tests are shared with other methods: `editing.scope.by_cosine` and `editing.retriever.gate`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from errata.editing.elder.allocation import pack_codes
from errata.editing.elder.state import ElderContents
from errata.editing.lane.claims import Claim
from errata.editing.lane.search import HammingIndex


def by_codes(contents: ElderContents, index: HammingIndex, queries: Tensor) -> list[Claim]:
    """Decides by the nearest allocation code; among equal distances the newest edit wins.

    Args:
        contents: of the lane, with learned experts and at least one edit.
        index: searches the codes.
        queries: q, (n, d_q).
    """
    learned = contents.learned
    assert learned is not None
    with torch.inference_mode():
        codes = pack_codes(learned.experts.codes(queries)).cpu()
    distances, rows = index.nearest(contents.codes, codes)
    return [
        Claim(contents.repository.name_of(row), -float(distance), -learned.limit)
        for distance, row in zip(distances.tolist(), rows.tolist(), strict=True)
    ]
