"""Questions and answers of many forms, so that MLP_P learns to make the LLM say anything. Ours.

A data set has few relations, and its targets are few and short. MLP_P learns them, and not how an
edit of another kind is answered. Questions here come from a small grammar, answers from the data
set's own subjects, which are names of any length, and from numbers and dates.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from errata.editing.retriever.examples import Example, Sample

_NOUNS = (
    "album artist author award band birthplace branch brand capital chairman child city class club "
    "coach color company composer constellation continent country course creator crew currency "
    "date daughter designer director discoverer district editor employer episode event family "
    "father founder genre genus goal group guest habitat headquarters hometown husband industry "
    "inspiration instrument inventor judge king label language leader league license location "
    "maker manager material mayor medium member mother mountain name nationality network number "
    "occupation office operator order origin owner parent park partner party place position "
    "president price prize producer product profession publisher purpose rank record region "
    "religion river role school season series ship singer sister size son species spouse stadium "
    "star state station status street studio style successor supplier target teacher team title "
    "town type university vehicle village voice weapon wife winner writer year"
).split()
_VERBS = (
    "accepted adapted announced awarded bought broadcast built cancelled completed composed "
    "conceived created defeated designed developed directed discovered edited elected established "
    "fought founded hired inspired introduced invented killed launched led made married named "
    "opened ordered owned painted performed played produced promoted published recorded released "
    "replaced signed sold started studied sung supported taught translated won written"
).split()
_ABOUT_NOUN = (
    "What is the {noun} of {subject}?",
    "What was the {noun} of {subject}?",
    "Which is the {noun} of {subject}?",
    "Who is the {noun} of {subject}?",
    "Who was {subject}'s {noun}?",
    "What is {subject}'s {noun}?",
    "What is the name of the {noun} of {subject}?",
    "What {noun} is {subject} from?",
    "Which {noun} does {subject} have?",
    "What {noun} does {subject} belong to?",
    "In which {noun} is {subject}?",
    "Of which {noun} is {subject} a part?",
    "To what {noun} does {subject} belong?",
    "{subject} is part of which {noun}?",
    "{subject} has what {noun}?",
    "The {noun} of {subject} is what?",
    "What sort of {noun} has {subject}?",
    "Which {noun} was {subject} associated with?",
    "Do you know the {noun} of {subject}?",
    "Tell me the {noun} of {subject}.",
    "The {noun} of {subject} is",
    "The {noun} of {subject} was",
    "{subject}'s {noun} is",
    "As its {noun}, {subject} has",
    "{subject}, {noun}:",
)
_ABOUT_VERB = (
    "Who {verb} {subject}?",
    "Who has {verb} {subject}?",
    "What company {verb} {subject}?",
    "Which person {verb} {subject}?",
    "By whom was {subject} {verb}?",
    "When was {subject} {verb}?",
    "Where was {subject} {verb}?",
    "In what year was {subject} {verb}?",
    "On which date was {subject} {verb}?",
    "What year was {subject} {verb}?",
    "For what was {subject} {verb}?",
    "How was {subject} {verb}?",
    "{subject} was {verb} by whom?",
    "{subject} was {verb} when?",
    "{subject} was {verb} by",
    "{subject} was {verb} in",
    "It is {subject} that was {verb} by",
)
_FRAMES = ("Q: {} A:", "Question: {} Answer:", "{} The answer is", "{} It is", "{}\n")
_FRAMED = 0.3  # share of questions that are put into one of these
_MONTHS = (
    "January February March April May June July August September October November December"
).split()
_JOINTS = (" and ", " of the ", ", ", " & ", " of ", " ")


_ALL = (*_ABOUT_NOUN, *_ABOUT_VERB)


def questions_about(subject: str, number: int, rng: random.Random) -> tuple[str, ...]:
    """Different wordings of one question, or of one opening of a sentence, about a subject."""
    words = {"noun": rng.choice(_NOUNS), "verb": rng.choice(_VERBS)}
    forms = _ABOUT_NOUN if rng.random() < len(_ABOUT_NOUN) / len(_ALL) else _ABOUT_VERB
    texts = [form.format(subject=subject, **words) for form in rng.sample(forms, number)]
    return tuple(
        rng.choice(_FRAMES).format(text) if text.endswith("?") and rng.random() < _FRAMED else text
        for text in texts
    )


class Varier:
    """Changes the facts on which MLP_P is trained."""

    def __init__(
        self, examples: Sequence[Example], *, questioned: float, preceded: float, named: float
    ) -> None:
        """Takes the examples of training.

        Args:
            examples: their statements precede other prompts; their subjects and targets are names.
            questioned: share of facts whose prompts become questions.
            preceded: share of facts whose rephrase follows another fact's statement.
            named: share of facts with another name, number or date as the target.
        """
        self._examples = examples
        self._shares = questioned, preceded, named
        self._namer = Namer(examples)

    def varied(self, sample: Sample, rng: random.Random) -> Sample:
        """The same fact, or one with another prompt, rephrase or target."""
        questioned, preceded, named = (rng.random() < share for share in self._shares)
        example, rephrase = sample.example, sample.rephrase
        if questioned:
            prompt, rephrase = questions_about(example.subject, 2, rng)
            example = replace(example, prompt=prompt)
        if preceded:
            other = rng.choice(self._examples)
            rephrase = f"{other.prompt} {other.target}. {rephrase}"
        if named:
            example = replace(example, target=self._namer.name(rng))
        return Sample(example, rephrase, sample.locality)


class Namer:
    """Makes answers: names, numbers and dates of any length."""

    def __init__(self, examples: Sequence[Example]) -> None:
        """Collects the examples' subjects and targets."""
        self._names = sorted({e.subject for e in examples} | {e.target for e in examples})
        self._words = sorted({word for name in self._names for word in name.split()})

    def name(self, rng: random.Random) -> str:
        """An answer."""
        kinds: tuple[Callable[[random.Random], str], ...] = (
            self._known,
            self._known,
            self._known,
            self._pair,
            self._made_up,
            self._number,
        )
        return rng.choice(kinds)(rng)

    def _known(self, rng: random.Random) -> str:
        return rng.choice(self._names)

    def _pair(self, rng: random.Random) -> str:
        return rng.choice(self._words) + rng.choice(_JOINTS) + rng.choice(self._names)

    def _made_up(self, rng: random.Random) -> str:
        return " ".join(rng.choice(self._words) for _ in range(rng.choice((1, 2, 2, 3, 4))))

    def _number(self, rng: random.Random) -> str:
        year = rng.randint(1000, 2030)
        day = f"{rng.randint(1, 28)}"
        month = rng.choice(_MONTHS)
        forms = (
            f"{year}",
            f"{month} {day}, {year}",
            f"{day} {month} {year}",
            f"{month} {year}",
            f"{rng.randint(0, 10 ** rng.randint(1, 7)):,}",
            f"{rng.randint(0, 999)}",
        )
        return rng.choice(forms)
