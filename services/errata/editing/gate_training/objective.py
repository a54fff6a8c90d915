"""The retriever's losses on a batch in which several facts can be about one subject.

RECIPE's neighbour-oriented loss makes a query's own key the best candidate; its sentinel-oriented
loss makes the sentinel the best one once the own key is gone; a query outside the batch's facts
belongs to the sentinel at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from errata.editing.gate_training.batches import Batch
from errata.editing.retriever.gate_model import GateModel
from errata.editing.retriever.losses import contrastive


def identity_numbers(identities: Sequence[str], known: dict[str, int]) -> Tensor:
    """(n,) int64, a number for each identity; equal ones get equal numbers, "" a unique one."""
    numbers = []
    for identity in identities:
        if not identity:
            known[f"{len(known)}|"] = len(known)
            numbers.append(len(known) - 1)
        else:
            numbers.append(known.setdefault(identity, len(known)))
    return torch.tensor(numbers, dtype=torch.int64)


def batch_losses(model: GateModel, batch: Batch, scale: Tensor) -> dict[str, Tensor]:
    """The losses of a batch, with gradients for the encoder.

    Args:
        model: in the mode that training wants.
        batch: m statements, n queries.
        scale: of the scores, a scalar.
    """
    texts = [*batch.statements, *(query.text for query in batch.queries)]
    pooled = model.encoder.in_parts(texts)
    m, known = len(batch.statements), dict[str, int]()
    return retrieval_losses(
        model,
        model.key_mlp(pooled[:m]),
        model.query_mlp(pooled[m:]),
        torch.tensor([query.key for query in batch.queries]),
        identity_numbers(batch.identities, known),
        identity_numbers([query.identity for query in batch.queries], known),
        scale,
    )


def retrieval_losses(
    model: GateModel,
    keys: Tensor,
    queries: Tensor,
    owners: Tensor,
    key_identities: Tensor,
    query_identities: Tensor,
    scale: Tensor,
) -> dict[str, Tensor]:
    """The losses of encoded queries.

    Args:
        model: its sentinel is the last candidate.
        keys: (m, d_r).
        queries: (n, d_r).
        owners: (n,) int64, the key of each query, negative if it has none.
        key_identities: (m,) int64.
        query_identities: (n,) int64; keys of the same identity other than the own key are excluded.
        scale: of the scores, a scalar.

    Returns:
        `neighbour`, `sentinel` and `outside`, in nats; the last one is 0 without outside queries.
    """
    m, device = len(keys), keys.device
    candidates = torch.cat([keys, model.sentinel_key()[None]])
    same = torch.zeros(len(queries), m + 1, dtype=torch.bool, device=device)
    same[:, :m] = (query_identities[:, None] == key_identities).to(device)
    inside = (owners >= 0).to(device)
    owners = owners.to(device)
    last = torch.full_like(owners, m)
    others = same.scatter(1, torch.where(inside, owners, last)[:, None], False)

    def loss(rows: Tensor, wanted: Tensor, hidden: Tensor) -> Tensor:
        if not bool(rows.any()):
            return queries.new_zeros(())
        return contrastive(
            queries[rows], candidates, wanted[rows], scale=scale, hidden=hidden[rows]
        )

    return {
        "neighbour": loss(inside, owners, others),
        "sentinel": loss(inside, last, same),
        "outside": loss(~inside, last, same),
    }
