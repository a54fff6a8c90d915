"""Claims of a gate on facts that its training does not contain, and its calibration on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from errata.editing.gate_training.batches import Batch
from errata.editing.gate_training.objective import identity_numbers
from errata.editing.retriever.gate_model import GateModel

_FACTORS = tuple(n / 100 for n in range(60, 141))


@dataclass(frozen=True, slots=True)
class Claims:
    """Shares of queries, from 0 to 1.

    Attributes:
        right: of the queries that a stored fact must claim, those that it does claim.
        other: of the same queries, those that another fact claims.
        wrongly: of the outside queries, those that any fact claims.
    """

    right: float
    other: float
    wrongly: float


@dataclass(frozen=True, eq=False, slots=True)
class Scores:
    """Scores of the queries of a batch, with the sentinel not yet calibrated.

    Attributes:
        best: (n,), the highest score of any key.
        limit: (n,), the sentinel's score.
        is_right: (n,) bool, whether the best key is the wanted one.
        inside: (n,) bool, whether a key is wanted.
    """

    best: Tensor
    limit: Tensor
    is_right: Tensor
    inside: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: GateModel, batch: Batch) -> Scores:
        """Encodes a batch; all its statements are stored at once."""
        keys = model.keys(batch.statements)
        queries = model.queries([query.text for query in batch.queries])
        best, who = (queries @ keys.T).max(1)
        known: dict[str, int] = {}
        key_identities = identity_numbers(batch.identities, known)
        wanted = identity_numbers([query.identity for query in batch.queries], known)
        inside = torch.tensor([query.key >= 0 for query in batch.queries])
        limit = queries @ model.sentinel_key() / model.calibration
        return cls(best.cpu(), limit.cpu(), key_identities[who.cpu()] == wanted, inside)

    def claims(self, factor: float) -> Claims:
        """The claims if the calibration were `factor`."""
        claimed = self.best > factor * self.limit
        return Claims(
            _mean((claimed & self.is_right)[self.inside]),
            _mean((claimed & ~self.is_right)[self.inside]),
            _mean(claimed[~self.inside]),
        )


def calibrated(scores: Scores, false_claims: float) -> float:
    """The lowest factor on the sentinel's key that admits at most a share of false claims.

    If no factor does, the highest.
    """
    fitting = (f for f in _FACTORS if scores.claims(f).wrongly <= false_claims)
    return next(fitting, _FACTORS[-1])


def _mean(values: Tensor) -> float:
    return float(values.float().mean()) if len(values) else 0.0
