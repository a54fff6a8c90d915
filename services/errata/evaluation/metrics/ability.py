"""General ability: multiple-choice and open questions, before and after editing."""

from __future__ import annotations

from collections.abc import Sequence

from errata.evaluation.data.general import GeneralQuestion
from errata.evaluation.metrics.tokens import exact_match
from errata.evaluation.systems import Pair, Scored


def question_pairs(questions: Sequence[GeneralQuestion]) -> list[Pair]:
    """The pairs to score, question by question: every choice, or the open answer."""
    return [
        (item.question, text) for item in questions for text in (item.choices or (item.answer,))
    ]


def share_right(questions: Sequence[GeneralQuestion], scored: Sequence[Scored]) -> float:
    """Share of questions that the model answers correctly.

    The model chooses the likeliest choice per token, the first on a tie; an open question counts
    by exact match.

    Args:
        questions: at least one.
        scored: of `question_pairs`.
    """
    rest = iter(scored)
    right = 0.0
    for item in questions:
        if not item.choices:
            right += exact_match(next(rest))
            continue
        log_probs = [next(rest).mean_log_prob for _ in item.choices]
        right += item.choices[log_probs.index(max(log_probs))] == item.answer
    return right / len(questions)
