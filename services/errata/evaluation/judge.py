"""Asks a system about records and computes figures from its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from errata.evaluation.asking import AS_TEXTS, CHAT, FORMS, Asking, in_form
from errata.evaluation.data.record import Record, RippleQuestion
from errata.evaluation.metrics.likelihood import perplexity
from errata.evaluation.metrics.memit import harmonic_mean, prefers
from errata.evaluation.metrics.tokens import (
    exact_agreement,
    exact_match,
    token_accuracy,
    token_agreement,
)
from errata.evaluation.metrics.whole import WholeAnswers, whole_answers, whole_shares
from errata.evaluation.systems import Pair, Scored, System

T = TypeVar("T")
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
class RippleAnswers:
    """The answers to one test of RippleEdits, with every accepted answer to each question.

    Attributes:
        questions: that follow from the edit.
        needs_all: whether all must be right.
        conditions: that must be right before the edit.
    """

    questions: tuple[tuple[Scored, ...], ...]
    needs_all: bool
    conditions: tuple[tuple[Scored, ...], ...]

    @property
    def is_met(self) -> bool:
        """Whether every condition is answered correctly."""
        return all(map(_is_right, self.conditions))

    @property
    def is_passed(self) -> bool:
        """Whether one question is answered correctly, or all if the test needs all."""
        return (all if self.needs_all else any)(map(_is_right, self.questions))


def _is_right(answers: Sequence[Scored]) -> bool:
    return any(exact_match(answer) == 1.0 for answer in answers)


@dataclass(frozen=True, slots=True)
class Answers:
    """A system's answers to one record's questions at one point in time.

    Attributes:
        new: the new answer at the prompt.
        true: the old answer; None if the data set has none.
        rephrases_new: the new answer at each rephrase.
        rephrases_true: the old answer at each rephrase; empty if there is none.
        locality_true: each locality prompt's own answer.
        locality_new: the edit's new answer at each locality prompt.
        ripples: for each group, the answers of its tests.
        whole: generated answers; None if they are not generated.
        chat: the same questions in conversations; None if they are asked in one form only.
    """

    new: Scored
    true: Scored | None
    rephrases_new: tuple[Scored, ...]
    rephrases_true: tuple[Scored, ...]
    locality_true: tuple[Scored, ...]
    locality_new: tuple[Scored, ...]
    ripples: Mapping[str, tuple[RippleAnswers, ...]]
    whole: WholeAnswers | None = None
    chat: Answers | None = None


def ask(system: System, records: Sequence[Record], asking: Asking = AS_TEXTS) -> list[Answers]:
    """Asks all questions about the records, in each form.

    Args:
        system: to ask.
        records: what to ask about.
        asking: the form; whole answers are generated for the first `num_generated` records.
    """
    answers, *others = (_ask(system, records, form, asking) for form in FORMS[asking.form])
    for chats in others:
        answers = [replace(text, chat=chat) for text, chat in zip(answers, chats, strict=True)]
    return answers


def _ask(system: System, records: Sequence[Record], form: str, asking: Asking) -> list[Answers]:
    """Scores all questions in one form in one call; equal questions are asked once."""
    pairs: dict[tuple[str, str], int] = {}

    def note(prompt: str, answer: str) -> Scored:
        pairs.setdefault((prompt, answer), len(pairs))
        return _NOTHING

    for record in records:
        _walk(record, note)
    asked: list[Pair] = [(in_form(prompt, form), answer) for prompt, answer in pairs]
    scored = system.score(asked)
    answers = [_walk(record, lambda *pair: scored[pairs[pair]]) for record in records]
    judged = records[: asking.num_generated]
    if not judged:
        return answers
    whole = whole_answers(system, judged, form)
    made = [replace(one, whole=said) for one, said in zip(answers, whole, strict=False)]
    return made + answers[len(judged) :]


_NOTHING = Scored((), (), ())


def _walk(record: Record, ask_one: Callable[[str, str], Scored]) -> Answers:
    """The record's answers, each from `ask_one(prompt, answer)`."""

    def at(prompts: Sequence[str], answer: str | None) -> tuple[Scored, ...]:
        return tuple(ask_one(prompt, answer) for prompt in prompts if answer is not None)

    def every(questions: Sequence[RippleQuestion]) -> tuple[tuple[Scored, ...], ...]:
        return tuple(
            tuple(ask_one(question.prompt, answer) for answer in question.answers)
            for question in questions
        )

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
                RippleAnswers(every(test.questions), test.needs_all, every(test.conditions))
                for test in tests
            )
            for group, tests in record.ripples.items()
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
        harmonic mean of the last three; `target_perplexity`; `ripple.{group}` and `generation.…`
        where there are any; and all of them as `chat.…` for questions that were asked twice.
    """
    rows = [dict(_shares(*item)) for item in zip(records, before, now, strict=True)]
    figures: Measures = {name: _mean_of(rows, name) for name in SHARES}
    last_three = [figures[name] for name in ("efficacy", "generalization", "specificity")]
    known = [value for value in last_three if value is not None]
    figures["score"] = harmonic_mean(known) if len(known) == len(last_three) else None
    figures["target_perplexity"] = round(perplexity(item.new for item in now), 2)
    others = dict.fromkeys(name for row in rows for name in row if name not in figures)
    figures |= {name: _mean_of(rows, name) for name in others}
    chats = [_chats(*pair) for pair in zip(before, now, strict=True)]
    known_chats = [pair for pair in chats if pair is not None]
    if known_chats:
        figures |= _in_chat(measures_of(records, *zip(*known_chats, strict=True)))
    return figures


def shares(record: Record, before: Answers, now: Answers) -> dict[str, float]:
    """One record's shares among the figures, as far as the record has them."""
    found = dict(_shares(record, before, now))
    chats = _chats(before, now)
    return found if chats is None else found | _in_chat(dict(_shares(record, *chats)))


def _chats(before: Answers, now: Answers) -> tuple[Answers, Answers] | None:
    """The answers in conversations, if the questions were asked twice."""
    return None if before.chat is None or now.chat is None else (before.chat, now.chat)


def _in_chat(figures: Mapping[str, T]) -> dict[str, T]:
    return {f"{CHAT}.{name}": value for name, value in figures.items()}


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
    for group, tests in now.ripples.items():
        counts = [old.is_met for old in before.ripples[group]]
        yield f"ripple_counted.{group}", _mean(counts)
        if any(counts):
            passed = [new.is_passed for new, met in zip(tests, counts, strict=True) if met]
            yield f"ripple.{group}", _mean(passed)
    if before.whole is not None and now.whole is not None:
        yield from whole_shares(record, before.whole, now.whole)


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
