"""Families of figures: each family is one table, under the names of its papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from errata.evaluation.asking import CHAT
from errata.evaluation.edit.exposure import GROUPS, NEW_RELATION, SEEN, UNSEEN
from errata.platform.plain import shown

_COUNTS = {f"{group}.{what}": 0 for group in GROUPS for what in ("prompts", "rephrases")}
_DIGITS = {
    **_COUNTS,
    "users.ripple_questions": 0,
    "perplexity": 1,
    "target_perplexity": 1,
    "fluency": 1,
    "consistency": 1,
}


@dataclass(frozen=True, slots=True)
class FigureFamily:
    """Figures that are shown in one table.

    Attributes:
        title: above the table.
        columns: dotted name of a figure → heading.
        note: below the table.
    """

    title: str
    columns: Mapping[str, str]
    note: str


TOKENS = FigureFamily(
    "Teacher-forced accuracy",
    {
        "reliability.token": "Rel. token",
        "reliability.exact": "Rel. exact",
        "generality.token": "Gen. token",
        "generality.exact": "Gen. exact",
        "locality.token": "Loc. token",
        "locality.exact": "Loc. exact",
    },
    "Locality is agreement with the model's own answers before the first edit.",
)
GENERATION = FigureFamily(
    "Whole answers, generated",
    {
        "generation.reliability": "Rel. said",
        "generation.generality": "Gen. said",
        "generation.locality": "Loc. still said",
        "generation.known": "Loc. said before",
        "generation.repeated": "Said twice at once",
    },
    "Shares of greedy answers that say the object in whole words, and the other object not before "
    "it; the edit's object at prompts and rephrases, the own answer at locality prompts, among "
    "those that said it before the first edit. The last is a share of the answers that say the "
    "edit's object: how many say it again in the line with no word between. Lower is better.",
)
MEMIT = FigureFamily(
    "MEMIT's figures",
    {
        "efficacy": "Efficacy",
        "generalization": "Generalization",
        "specificity": "Specificity",
        "score": "Score",
        "fluency": "Fluency",
        "consistency": "Consistency",
    },
    "A record counts by which of the new and the true answer is likelier; Score is the harmonic "
    "mean. Without true answers (ZsRE) the first three are token accuracies.",
)
LIKELIHOOD = FigureFamily(
    "Perplexity",
    {"target_perplexity": "Targets", "perplexity": "Held-out text"},
    "Over all tokens.",
)
CLAIMS = FigureFamily(
    "Claims",
    {
        "claims.prompts": "Prompts, own edit",
        "claims.rephrases": "Rephrases, own edit",
        "claims.others": "Rephrases, another edit",
        "claims.unrelated": "Locality prompts, any edit",
        "claims.changed": "Locality prompts that ask what another edit changed",
    },
    "Shares of prompts that an edit claims, whatever it then answers; last, those it may claim.",
)
_OF_GROUP = {
    "prompts": "Prompts",
    "rephrases": "Rephrases",
    "reliability.exact": "Rel. exact",
    "generality.token": "Gen. token",
    "generality.exact": "Gen. exact",
    "locality.exact": "Loc. exact",
    "claims.rephrases": "Rephrases, own edit",
    "claims.unrelated": "Locality prompts, any edit",
}
_GROUP_NOTES = {
    SEEN: (
        "Wording seen",
        "The lane model learned from this wording, or the edit was submitted with it.",
    ),
    UNSEEN: (
        "Wording unseen",
        "The lane model learned from other wordings of the relation, but not from this one.",
    ),
    NEW_RELATION: (
        "Relation unseen",
        "The lane model learned no prompt of the relation, or there is none.",
    ),
}
_BY_GROUP = [
    FigureFamily(title, {f"{group}.{name}": heading for name, heading in _OF_GROUP.items()}, note)
    for group, (title, note) in _GROUP_NOTES.items()
]
UNDISPUTED = FigureFamily(
    "Subjects with one answer",
    {
        "undisputed.records": "Share of records",
        "undisputed.reliability.token": "Rel. token",
        "undisputed.reliability.exact": "Rel. exact",
        "undisputed.generality.token": "Gen. token",
        "undisputed.generality.exact": "Gen. exact",
    },
    "Records whose subject no other record edits to another answer.",
)
SERVED = FigureFamily(
    "With the writer's checks",
    {"accepted": "Accepted", "served": "Accepted and exact"},
    "Shares of all submitted edits.",
)
USERS = FigureFamily(
    "What users need",
    {
        "users.changed": "A → B",
        "users.changed_back": "A → B → A",
        "users.held_at_50": "Held at token 50",
        "users.refused": "Refuses",
        "users.unlearned": "Old answer gone",
        "users.extractable": "Extractable in other words",
        "users.both_facts": "Both facts of one subject",
        "users.subject_kept": "Other facts of the subject kept",
        "users.ripple": "Ripple questions",
        "users.ripple_questions": "Of how many",
    },
    "Exact match; questions that the unedited model cannot answer do not count.",
)
IN_CHAT = f"{CHAT}."  # begins the names of figures of questions asked in conversations, too
FAMILIES: Sequence[FigureFamily] = (
    TOKENS,
    *_BY_GROUP,
    UNDISPUTED,
    SERVED,
    USERS,
    GENERATION,
    MEMIT,
    LIKELIHOOD,
    CLAIMS,
)


def figure(figures: Mapping[str, Any], name: str) -> float | None:
    """A figure by its dotted name; None if it was not measured."""
    if name.startswith(IN_CHAT):
        return figure(figures.get(CHAT, {}), name.removeprefix(IN_CHAT))
    group, dot, rest = name.partition(".")
    found: Any = figures.get(group)
    if dot:
        found = found.get(rest) if isinstance(found, Mapping) else None
    return None if found is None else float(found)


def families_in(stages: Sequence[Mapping[str, Any]]) -> list[FigureFamily]:
    """The families with measured figures, with only the columns that were measured.

    Figures of questions that were also asked in conversations follow, in families of their own.
    """
    chats = [row[CHAT] for row in stages if CHAT in row]
    return [*_families(stages), *(map(_of_chats, _families(chats)) if chats else ())]


def _of_chats(family: FigureFamily) -> FigureFamily:
    columns = {f"{IN_CHAT}{name}": title for name, title in family.columns.items()}
    return FigureFamily(f"{family.title}, asked in conversations", columns, family.note)


def _families(stages: Sequence[Mapping[str, Any]]) -> list[FigureFamily]:
    groups = {
        "retention": ("General ability", "Share of questions answered right."),
        "ripple": (
            "Ripple effects",
            "Share of tests passed, of those whose conditions were met before the first edit.",
        ),
        "ripple_counted": ("Ripple tests that count", "Share whose conditions were met before."),
    }
    open_ended = [
        FigureFamily(title, {f"{group}.{name}": name for name in names}, note)
        for group, (title, note) in groups.items()
        if (names := list(dict.fromkeys(name for row in stages for name in row.get(group, ()))))
    ]
    found = []
    for family in (*FAMILIES, *open_ended):
        columns = {
            name: title
            for name, title in family.columns.items()
            if any(figure(row, name) is not None for row in stages)
        }
        if columns:
            found.append(FigureFamily(family.title, columns, family.note))
    return found


def cell(name: str, value: float | None, interval: float | None = None) -> str:
    """A figure as text, with the half-width of its interval if there is one."""
    if value is None:
        return "–"
    digits = _DIGITS.get(name.removeprefix(IN_CHAT), 3)
    text = f"{value:,.{digits}f}"
    return text if interval is None else f"{text} ± {interval:,.{digits}f}"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, whatever the cells' texts contain."""
    head, *body = (
        "| " + " | ".join(shown(text).replace("|", "\\|") for text in row) + " |"
        for row in (headings, *rows)
    )
    return "\n".join([head, "|" + "---|" * len(headings), *body]) + "\n"
