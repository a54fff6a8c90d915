"""What editing achieved on CounterFact, in two families of figures that must not be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from errata.editing.causal_lm import CausalLM
from errata.evaluation.counterfact import Record
from errata.evaluation.scoring import Scores, score_targets


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a set of records, each in 0 … 1.

    The MEMIT family (P is the per-token mean log-probability):

    Attributes:
        efficacy: share of prompts with P(new) > P(true).
        generalization: the same for rephrases; per record, then averaged.
        specificity: share of locality prompts with P(true) > P(new); per record, then averaged.
        score: harmonic mean of these three.
        reliability: teacher-forced token accuracy of the new target at the prompt.
        generality: the same at the rephrases.
        locality: share of tokens at the locality prompts whose argmax is that of the unedited
            model; the other family.
    """

    efficacy: float
    generalization: float
    specificity: float
    score: float
    reliability: float
    generality: float
    locality: float

    def to_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the unedited model says at the locality prompts; made before the first edit."""

    argmax: list[tuple[int, ...]]


def baseline(model: CausalLM, records: Sequence[Record]) -> Baseline:
    """Keeps the unedited model's argmax at the locality prompts."""
    return Baseline(_score(model, records, "locality", "true").argmax)


def evaluate(model: CausalLM, records: Sequence[Record], before: Baseline) -> Figures:
    """Measures the model as it is now.

    Args:
        model: edited.
        records: those whose edits it carries.
        before: of the same records in the same order.
    """
    prompt_new = _score(model, records, "prompt", "new")
    prompt_true = _score(model, records, "prompt", "true")
    other_new = _score(model, records, "rephrase", "new")
    other_true = _score(model, records, "rephrase", "true")
    near_new = _score(model, records, "locality", "new")
    near_true = _score(model, records, "locality", "true")
    rephrase_sizes = [len(record.rephrases) for record in records]
    locality_sizes = [len(record.locality) for record in records]
    efficacy = float((prompt_new.log_prob > prompt_true.log_prob).float().mean())
    generalization = _per_record(other_new.log_prob > other_true.log_prob, rephrase_sizes)
    specificity = _per_record(near_true.log_prob > near_new.log_prob, locality_sizes)
    agreement = [
        sum(a == b for a, b in zip(old, new, strict=True)) / len(old)
        for old, new in zip(before.argmax, near_true.argmax, strict=True)
    ]
    return Figures(
        efficacy=efficacy,
        generalization=generalization,
        specificity=specificity,
        score=harmonic_mean([efficacy, generalization, specificity]),
        reliability=float(prompt_new.accuracy.mean()),
        generality=_per_record(other_new.accuracy, rephrase_sizes),
        locality=_per_record(torch.tensor(agreement), locality_sizes),
    )


def harmonic_mean(values: Sequence[float]) -> float:
    """The harmonic mean; 0 if any value is 0."""
    if min(values) <= 0.0:
        return 0.0
    return len(values) / sum(1.0 / value for value in values)


def _per_record(values: Tensor, sizes: Sequence[int]) -> float:
    parts = values.float().split(list(sizes))
    return float(torch.stack([part.mean() for part in parts]).mean())


def _score(model: CausalLM, records: Sequence[Record], where: str, what: str) -> Scores:
    pairs: list[tuple[str, str]] = []
    for record in records:
        places = {
            "prompt": [(record.prompt, record.target_true)],
            "rephrase": [(prompt, record.target_true) for prompt in record.rephrases],
            "locality": list(record.locality),
        }[where]
        pairs += [(prompt, record.target_new if what == "new" else true) for prompt, true in places]
    return score_targets(model, pairs)
