"""Measures edits: reliability, generality and locality.

Reliability and generality are teacher-forced token accuracy, on the edit's prompt and on its
rephrases. Locality is the share of probes whose greedy continuation is the same before and after
the edit; a single changed token counts as another answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from errata.editing.chat import Chat, Prompt, as_chat, said
from errata.editing.edit import Edit
from errata.editing.effects.plan import RowPlan
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, tokenise
from errata.engine import offline
from errata.log.entries import Figures

DEFAULT_PROBES = (
    "The sun rises in the",
    "Water is made of hydrogen and",
    "Two plus two is",
    "Once upon a time there was",
    "The opposite of hot is",
    "In winter the weather is often",
)
PROBE_TOKENS = 3
_ROWS = 64  # of one forward pass: an edit can bring many probes, and logits are wide

Route = Callable[[Sequence[str]], Sequence[RowPlan]]
"""Prompts → what the edits change in each row."""


@dataclass(frozen=True, slots=True)
class _Question:
    """A prompt, its tokens, and the continuation to score."""

    prompt: Prompt
    row: TokenRow
    continuation_ids: tuple[int, ...]

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Token ids of the prompt."""
        return self.row.ids[: len(self.row.ids) - self.row.num_target]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the model answered before a batch.

    Attributes:
        answered: for each edit, by name, whether the model answered the target.
        continuations: for each probe, the model's greedy continuation, `PROBE_TOKENS` ids.
    """

    answered: dict[str, bool]
    continuations: dict[Prompt, tuple[int, ...]]


def probes_of(edit: Edit) -> tuple[Prompt, ...]:
    """The edit's own locality probes, or the default ones, in the form of its prompt."""
    if edit.locality_probes:
        return edit.locality_probes
    if isinstance(edit.prompt, Chat):
        return tuple(map(as_chat, DEFAULT_PROBES))
    return DEFAULT_PROBES


def baseline(model: CausalLM, edits: Sequence[Edit], route: Route) -> Baseline:
    """Measures the model before a batch."""
    probes = list(dict.fromkeys(probe for edit in edits for probe in probes_of(edit)))
    continuations: dict[Prompt, tuple[int, ...]] = {}
    for start in range(0, len(probes), _ROWS):
        chunk = probes[start : start + _ROWS]
        rows = [tokenise(model, probe) for probe in chunk]
        plans = _plans(chunk, rows, route)
        made = offline.generate(model, [row.ids for row in rows], PROBE_TOKENS, plans=plans)
        continuations.update(zip(chunk, made, strict=True))
    return Baseline(answered(model, edits, route), continuations)


def answered(model: CausalLM, edits: Sequence[Edit], route: Route) -> dict[str, bool]:
    """For each edit, by name, whether the model answers its prompt with its target."""
    shares = _accuracies(model, [(edit.prompt, edit) for edit in edits], route)
    return {edit.name: share == 1.0 for edit, share in zip(edits, shares, strict=True)}


def measure(
    model: CausalLM, edits: Sequence[Edit], before: Baseline, route: Route
) -> list[Figures]:
    """Measures the edited model and compares it with the baseline."""
    reliability = _accuracies(model, [(edit.prompt, edit) for edit in edits], route)
    rephrased = [(prompt, edit) for edit in edits for prompt in edit.rephrases]
    generality = iter(_accuracies(model, rephrased, route))
    probes = list(before.continuations)
    asked = [
        _Question(probe, tokenise(model, probe), before.continuations[probe]) for probe in probes
    ]
    kept = _shares(model, asked, route)
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


def _accuracies(model: CausalLM, pairs: Sequence[tuple[Prompt, Edit]], route: Route) -> list[float]:
    """Share of target tokens that the model ranks first, for each prompt and its edit."""
    asked = []
    for prompt, edit in pairs:
        row = tokenise(model, prompt, edit.target, stated=edit.separator_of(prompt))
        asked.append(_Question(prompt, row, row.ids[-row.num_target :]))
    return _shares(model, asked, route)


def _shares(model: CausalLM, asked: Sequence[_Question], route: Route) -> list[float]:
    """Share of continuation tokens that the model ranks first, for each question."""
    shares: list[float] = []
    for start in range(0, len(asked), _ROWS):
        part = asked[start : start + _ROWS]
        continuations = [question.continuation_ids for question in part]
        _, own = offline.score(
            model,
            [question.prompt_ids for question in part],
            continuations,
            _plans([q.prompt for q in part], [q.row for q in part], route),
        )
        shares += [
            sum(a == b for a, b in zip(ids, given, strict=True)) / len(given)
            for ids, given in zip(own, continuations, strict=True)
        ]
    return shares


def _plans(prompts: Sequence[Prompt], rows: Sequence[TokenRow], route: Route) -> list[RowPlan]:
    """The plan of each prompt, with the place of what the user says in it, as served."""
    plans = route([said(prompt) for prompt in prompts])
    return [plan.behind(row.said_index) for plan, row in zip(plans, rows, strict=True)]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
