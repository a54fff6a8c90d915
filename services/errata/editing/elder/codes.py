"""Does an edit claim this query, and which: by allocation codes.

j = argmin_j Ham(c, c_j); a claim iff the distance is below ε, strictly (ELDER §3.4). Scores are
told so that higher is nearer: a distance as its negative. The other scope tests are shared with
other methods: `editing.scope.by_cosine` and `editing.retriever.gate`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from errata.editing.elder.allocation import pack_codes
from errata.editing.elder.state import ElderContents
from errata.editing.lane.claims import Claim
from errata.editing.lane.search import HammingIndex


def by_codes(held: ElderContents, index: HammingIndex, queries: Tensor) -> list[Claim]:
    """Decides by the nearest allocation code; of equal distances the newest edit's.

    Args:
        held: with learned experts and at least one edit.
        index: searches the codes.
        queries: q, (n, d_q).
    """
    learned = held.learned
    assert learned is not None
    with torch.inference_mode():
        codes = pack_codes(learned.experts.codes(queries)).cpu()
    distances, rows = index.nearest(held.codes, codes)
    return [
        Claim(held.repository.name_of(row), -float(distance), -learned.limit)
        for distance, row in zip(distances.tolist(), rows.tolist(), strict=True)
    ]
