"""The figures of MEMIT's authors: which of two answers is likelier for the model.

P is the per-token mean log-probability, so that a long answer is not penalised for its length.
Efficacy: P(new) > P(true) at the prompt. Generalization: the same at rephrases. Specificity:
P(true) > P(new) at neighbours. Each is a share per record, then a mean over records; Score is the
harmonic mean of the three. For data sets without true answers (ZsRE, SelfCheckGPT, RippleEdits),
the figures are those of MEMIT's authors for ZsRE: efficacy and generalization are token accuracy of
the new answer, specificity is token accuracy of the unrelated question's own answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from errata.evaluation.systems import Scored


def prefers(wanted: Scored, other: Scored) -> float:
    """1 if `wanted` is likelier per token than `other`, else 0; 0 on a tie."""
    return float(wanted.mean_log_prob > other.mean_log_prob)


def harmonic_mean(values: Sequence[float]) -> float:
    """The harmonic mean; 0 if any value is 0."""
    if min(values) <= 0.0:
        return 0.0
    return len(values) / sum(1.0 / value for value in values)
