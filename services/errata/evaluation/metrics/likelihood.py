"""Perplexity: of edit targets (SelfCheckGPT's measure of an edit), and of held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from errata.errors import InvalidRequestError
from errata.evaluation.systems import Pair, Scored

_MAX_WORDS = 200  # of a paragraph, so that models of every context length see the same text


def perplexity(scored: Iterable[Scored]) -> float:
    """exp of the mean negative log-probability over all tokens of all texts.

    Long texts weigh more than short ones. This is not a mean of perplexities, which a single text
    of probability zero would make infinite.

    Raises:
        InvalidRequestError: there is no token.
    """
    values = [value for item in scored for value in item.log_probs]
    if not values:
        raise InvalidRequestError("the perplexity needs a text; give one.", field="text")
    return math.exp(-math.fsum(values) / len(values))


def text_pairs(paragraphs: Sequence[str]) -> list[Pair]:
    """Each paragraph as its first word and the words that follow, 200 in all.

    In a cluster's API the first word has no context, so it is not predicted.
    """
    words = [paragraph.split()[:_MAX_WORDS] for paragraph in paragraphs]
    return [(row[0], " ".join(row[1:])) for row in words if len(row) > 1]
