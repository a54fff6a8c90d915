"""Asks a system about records and computes figures from its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from errata.evaluation.data.record import Record
from errata.evaluation.metrics.likelihood import perplexity
from errata.evaluation.metrics.memit import harmonic_mean, prefers
from errata.evaluation.metrics.tokens import (
    exact_agreement,
    exact_match,
    token_accuracy,
    token_agreement,
)
from errata.evaluation.systems import Pair, Scored, System

Measures = dict[str, float | None]
"""Figures by name, such as `reliability.token`; None if the data set does not have the figure."""

SHARES = (
    "reliability.token",
    "reliability.exact",
    "generality.token",
    "generality.exact",
    "locality.token",
    "locality.exact",
    "efficacy",
    "generalization",
    "specificity",
)


@dataclass(frozen=True, slots=True)
class Answers:
    """A system's scores for one record's questions at one point in time.

    Attributes:
        new: the new answer at the prompt.
        true: the old answer; None if the data set has none.
        rephrases_new: the new answer at each rephrase.
        rephrases_true: the old answer at each rephrase; empty if there is none.
        locality_true: each locality prompt's own answer.
        locality_new: the edit's new answer at each locality prompt.
        ripples: for each group and question, every accepted answer.
    """

    new: Scored
    true: Scored | None
    rephrases_new: tuple[Scored, ...]
    rephrases_true: tuple[Scored, ...]
    locality_true: tuple[Scored, ...]
    locality_new: tuple[Scored, ...]
    ripples: Mapping[str, tuple[tuple[Scored, ...], ...]]


def ask(system: System, records: Sequence[Record]) -> list[Answers]:
    """Scores all questions about the records in one call; equal questions are asked once."""
    pairs: dict[Pair, int] = {}

    def note(prompt: str, answer: str) -> Scored:
        pairs.setdefault((prompt, answer), len(pairs))
        return _NOTHING

    for record in records:
        _walk(record, note)
    scored = system.score(list(pairs))
    return [_walk(record, lambda *pair: scored[pairs[pair]]) for record in records]


_NOTHING = Scored((), (), ())


def _walk(record: Record, ask_one: Callable[[str, str], Scored]) -> Answers:
    """The record's answers, each from `ask_one(prompt, answer)`."""

    def at(prompts: Sequence[str], answer: str | None) -> tuple[Scored, ...]:
        return tuple(ask_one(prompt, answer) for prompt in prompts if answer is not None)

    near = [prompt for prompt, _ in record.locality]
    true = record.target_true
    return Answers(
        new=ask_one(record.prompt, record.target_new),
        true=ask_one(record.prompt, true) if true is not None else None,
        rephrases_new=at(record.rephrases, record.target_new),
        rephrases_true=at(record.rephrases, true),
        locality_true=tuple(ask_one(prompt, answer) for prompt, answer in record.locality),
        locality_new=at(near, record.target_new),
        ripples={
            group: tuple(
                tuple(ask_one(question.prompt, answer) for answer in question.answers)
                for question in items
            )
            for group, items in record.ripples.items()
        },
    )


def measures_of(
    records: Sequence[Record], before: Sequence[Answers], now: Sequence[Answers]
) -> Measures:
    """Figures of a set of records.

    Args:
        records: at least one.
        before: their answers before the first edit.
        now: their answers now.

    Returns:
        `SHARES`, each a mean per record and then over the records that have it; `score`, the
        harmonic mean of the last three; `target_perplexity`; `ripple.{group}` where there are any.
    """
    rows = [shares(*item) for item in zip(records, before, now, strict=True)]
    figures: Measures = {name: _mean_of(rows, name) for name in SHARES}
    last_three = [figures[name] for name in ("efficacy", "generalization", "specificity")]
    known = [value for value in last_three if value is not None]
    figures["score"] = harmonic_mean(known) if len(known) == len(last_three) else None
    figures["target_perplexity"] = round(perplexity(item.new for item in now), 2)
    groups = dict.fromkeys(group for item in now for group in item.ripples)
    figures |= {f"ripple.{group}": _mean_of(rows, f"ripple.{group}") for group in groups}
    return figures


def shares(record: Record, before: Answers, now: Answers) -> dict[str, float]:
    """One record's values of `SHARES` and of the ripples, as far as the record has them."""
    return dict(_shares(record, before, now))


def _shares(record: Record, before: Answers, now: Answers) -> Iterator[tuple[str, float]]:
    yield "reliability.token", token_accuracy(now.new)
    yield "reliability.exact", exact_match(now.new)
    if now.rephrases_new:
        yield "generality.token", _mean(map(token_accuracy, now.rephrases_new))
        yield "generality.exact", _mean(map(exact_match, now.rephrases_new))
    if now.locality_true:
        pairs = list(zip(before.locality_true, now.locality_true, strict=True))
        yield "locality.token", _mean(token_agreement(*pair) for pair in pairs)
        yield "locality.exact", _mean(exact_agreement(*pair) for pair in pairs)
    yield from _memit_shares(now)
    for group, questions in now.ripples.items():
        right = [max(map(exact_match, answers)) for answers in questions]
        yield f"ripple.{group}", _mean(right)


def _memit_shares(now: Answers) -> Iterator[tuple[str, float]]:
    if now.true is None:  # ZsRE's definitions
        yield "efficacy", token_accuracy(now.new)
        if now.rephrases_new:
            yield "generalization", _mean(map(token_accuracy, now.rephrases_new))
        if now.locality_true:
            yield "specificity", _mean(map(token_accuracy, now.locality_true))
        return
    yield "efficacy", prefers(now.new, now.true)
    if now.rephrases_new:
        pairs = zip(now.rephrases_new, now.rephrases_true, strict=True)
        yield "generalization", _mean(prefers(new, true) for new, true in pairs)
    if now.locality_true:
        near = zip(now.locality_true, now.locality_new, strict=True)
        yield "specificity", _mean(prefers(true, new) for true, new in near)


def _mean(values: Iterable[float]) -> float:
    items = list(values)
    return sum(items) / len(items)


def _mean_of(rows: Sequence[Mapping[str, float]], name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return _mean(values) if values else None
