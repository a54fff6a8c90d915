"""Does the edited model answer the target, and do the probes stay: reliability and locality.

Reliability and generality are teacher-forced token accuracy. Locality is the share of probes whose
greedy continuation is the same before and after: one changed token is another answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.editing.causal_lm import CausalLM
from errata.editing.edit import Edit
from errata.editing.prompts import tokenise
from errata.engine import offline
from errata.replica.entries import Figures

DEFAULT_PROBES = (
    "The sun rises in the",
    "Water is made of hydrogen and",
    "Two plus two is",
    "Once upon a time there was",
    "The opposite of hot is",
    "In winter the weather is often",
)
PROBE_TOKENS = 3
_ROWS = 64  # of one forward pass: an edit may bring many probes, and logits are wide

Row = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the model said before a batch.

    Attributes:
        answered: for each edit, whether it answered the target.
        continuations: for each probe, its own greedy continuation, `PROBE_TOKENS` ids.
    """

    answered: dict[str, bool]
    continuations: dict[str, tuple[int, ...]]


def probes_of(edit: Edit) -> tuple[str, ...]:
    """The edit's own locality probes, or else the default ones."""
    return edit.locality_probes or DEFAULT_PROBES


def baseline(model: CausalLM, edits: Sequence[Edit]) -> Baseline:
    """Asks the model before an edit."""
    answered = _accuracies(model, [(edit.prompt, edit.target) for edit in edits])
    probes = list(dict.fromkeys(probe for edit in edits for probe in probes_of(edit)))
    continuations: dict[str, tuple[int, ...]] = {}
    for start in range(0, len(probes), _ROWS):
        chunk = probes[start : start + _ROWS]
        prompts = [tokenise(model, probe).ids for probe in chunk]
        made = offline.generate(model, prompts, PROBE_TOKENS)
        continuations.update(zip(chunk, made, strict=True))
    return Baseline(
        answered={edit.name: share == 1.0 for edit, share in zip(edits, answered, strict=True)},
        continuations=continuations,
    )


def measure(model: CausalLM, edits: Sequence[Edit], before: Baseline) -> list[Figures]:
    """Asks the edited model and compares."""
    reliability = _accuracies(model, [(edit.prompt, edit.target) for edit in edits])
    rephrased = [(text, edit.target) for edit in edits for text in edit.rephrases]
    generality = iter(_accuracies(model, rephrased))
    probes = list(before.continuations)
    kept = _shares(
        model, [(tokenise(model, probe).ids, before.continuations[probe]) for probe in probes]
    )
    locality = {probe: float(share == 1.0) for probe, share in zip(probes, kept, strict=True)}
    return [
        Figures(
            reliability=share,
            generality=_mean([next(generality) for _ in edit.rephrases]),
            locality=_mean([locality[probe] for probe in probes_of(edit)]) or 0.0,
            already_answered=before.answered[edit.name],
        )
        for edit, share in zip(edits, reliability, strict=True)
    ]


def _accuracies(model: CausalLM, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Share of target tokens that the model ranks first, for each (prompt, target)."""
    rows = []
    for prompt, target in pairs:
        row = tokenise(model, prompt, target)
        rows.append((row.ids[: -row.num_target], row.ids[-row.num_target :]))
    return _shares(model, rows)


def _shares(model: CausalLM, rows: Sequence[Row]) -> list[float]:
    shares: list[float] = []
    for start in range(0, len(rows), _ROWS):
        prompts, continuations = zip(*rows[start : start + _ROWS], strict=True)
        _, own = offline.score(model, prompts, continuations)
        shares += [
            sum(a == b for a, b in zip(ids, given, strict=True)) / len(given)
            for ids, given in zip(own, continuations, strict=True)
        ]
    return shares


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
