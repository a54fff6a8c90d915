"""Does an edit claim this query, and which: by allocation codes, by cosine, or by a learned gate.

- `codes`: j = argmin_j Ham(c, c_j); a claim iff the distance is below ε, strictly (ELDER §3.4).
- `cosine`, `idf`: j = argmax_j cos(x, x_j); a claim iff it is above τ, strictly.
- `retriever`: RECIPE's rule, a score above its sentinel's (`recipe.route`).

Scores are told so that higher is nearer: a distance as its negative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from errata.editing.elder.allocation import pack_codes
from errata.editing.elder.state import Holdings
from errata.editing.method import Claim
from errata.editing.repository import Repository
from errata.editing.search import HammingIndex, InnerProductIndex

_CANDIDATES = 4


def by_codes(held: Holdings, index: HammingIndex, queries: Tensor) -> list[Claim]:
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


def by_cosine(
    repository: Repository, limit: float, index: InnerProductIndex, vectors: Tensor
) -> list[Claim]:
    """Decides by the highest inner product; of equal ones the newest edit's.

    Args:
        repository: with keys of length 1, at least one.
        limit: τ.
        index: searches the keys.
        vectors: (n, width) of length 1.
    """
    found = index.nearest(repository, vectors, min(_CANDIDATES, repository.num_rows))
    known = found >= 0
    keys = repository.keys[found.clamp(min=0).to(repository.keys.device)].double()
    scores = (keys * vectors.double()[:, None]).sum(-1).cpu().masked_fill(~known, -torch.inf)
    best = scores.amax(dim=1)
    winners = torch.where(scores == best[:, None], found, -1).amax(dim=1)
    return [
        Claim(repository.name_of(row), score, limit)
        for row, score in zip(winners.tolist(), best.tolist(), strict=True)
    ]
