"""Whole answers, generated greedily, and which object each names first.

Teacher forcing asks whether the model would begin with the object's very tokens. A chat model may
answer in a sentence; what counts here is that the sentence says the object, and not the other one
before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from errata.demo import says
from errata.engine.sampling import GREEDY
from errata.evaluation.asking import in_form
from errata.evaluation.data.record import Record
from errata.evaluation.systems import System

NUM_TOKENS = 24


@dataclass(frozen=True, slots=True)
class WholeAnswers:
    """The answers to one record's questions: a text ends with its line, a conversation's turn.

    Attributes:
        prompt: to the edited prompt.
        rephrases: to each rephrase.
        locality: to each locality prompt.
    """

    prompt: str
    rephrases: tuple[str, ...]
    locality: tuple[str, ...]


def whole_answers(system: System, records: Sequence[Record], form: str) -> list[WholeAnswers]:
    """Generates at most `NUM_TOKENS` tokens for each question; equal ones are asked once."""
    questions = list(
        dict.fromkeys(
            question
            for record in records
            for question in (
                record.prompt,
                *record.rephrases,
                *(near for near, _ in record.locality),
            )
        )
    )
    asked = [in_form(question, form) for question in questions]
    texts = system.generate(asked, NUM_TOKENS, [GREEDY] * len(asked))
    said = {
        question: text.strip().partition("\n")[0] if isinstance(prompt, str) else text
        for question, prompt, text in zip(questions, asked, texts, strict=True)
    }
    return [
        WholeAnswers(
            prompt=said[record.prompt],
            rephrases=tuple(said[question] for question in record.rephrases),
            locality=tuple(said[question] for question, _ in record.locality),
        )
        for record in records
    ]


def whole_shares(
    record: Record, before: WholeAnswers, now: WholeAnswers
) -> Iterator[tuple[str, float]]:
    """The record's figures.

    Args:
        record: whose questions were asked.
        before: the answers before the first edit.
        now: the current answers.

    Yields:
        `generation.reliability` and `generation.generality`: shares of answers, at the prompt and
        at the rephrases, that say the new object, and not the old one before it;
        `generation.known`: share of locality prompts whose own answer was said before the first
        edit; `generation.locality`: share of these that still say it; `generation.repeated`: share
        of the answers that say the new object which say it again at once ("Lyon, Lyon").
    """
    old = () if record.target_true is None else (record.target_true,)
    yield "generation.reliability", float(says(now.prompt, record.target_new, *old))
    if now.rephrases:
        yield (
            "generation.generality",
            _share([says(answer, record.target_new, *old) for answer in now.rephrases]),
        )
    asked = (now.prompt, *now.rephrases)
    if said := [answer for answer in asked if says(answer, record.target_new, *old)]:
        yield "generation.repeated", _share([_repeats(one, record.target_new) for one in said])
    if not now.locality:
        return
    own = [answer for _, answer in record.locality]
    was, is_now = (
        [
            says(said, answer, record.target_new)
            for said, answer in zip(answers.locality, own, strict=True)
        ]
        for answers in (before, now)
    )
    yield "generation.known", _share(was)
    if any(was):
        yield (
            "generation.locality",
            _share([still for known, still in zip(was, is_now, strict=True) if known]),
        )


def _repeats(answer: str, name: str) -> bool:
    """Whether an answer says a name twice in one line with no word between.

    Many models go on in a new line that begins with the name; that is no repetition.
    """
    once = re.escape(name)
    flags = re.IGNORECASE if len(name) > 2 else re.NOFLAG  # as in `says`
    return bool(re.search(rf"(?<!\w){once}[^\w\n]+{once}(?!\w)", answer, flags))


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
