"""Teacher-forced token accuracy and exact match (reliability, generality), and locality.

Exact match tells whether greedy decoding would begin with the whole answer: it does if and only if
every token of the answer is the likeliest one after the tokens before it.
"""

from __future__ import annotations

from errata.evaluation.systems import Scored


def token_accuracy(answer: Scored) -> float:
    """Share of the answer's tokens that the model ranks first."""
    return _share(answer.token_ids, answer.argmax_ids)


def exact_match(answer: Scored) -> float:
    """1 if the model ranks every token of the answer first, else 0."""
    return float(answer.token_ids == answer.argmax_ids)


def token_agreement(before: Scored, now: Scored) -> float:
    """Share of the answer's positions whose first-ranked token is the same as before the edits.

    Whether the answer is right does not matter: locality means no change.
    """
    return _share(before.argmax_ids, now.argmax_ids)


def exact_agreement(before: Scored, now: Scored) -> float:
    """1 if the first-ranked tokens did not change at any of the answer's positions, else 0."""
    return float(before.argmax_ids == now.argmax_ids)


def _share(wanted: tuple[int, ...], found: tuple[int, ...]) -> float:
    return sum(a == b for a, b in zip(wanted, found, strict=True)) / len(wanted)
