"""What meta-training learns from: facts with rephrases and locality prompts, drawn in batches."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from errata.editing.retriever.frames import Frames
from errata.errors import InvalidRequestError

_FEWEST_TIMES = 4  # that a word occurs: the LLM can hardly say rarer ones
_PUNCTUATION = ".,:;!?()\"'"
_MOST_SHARED = 0.1  # of two relations' targets, if they are taken for different ones


@dataclass(frozen=True, slots=True)
class Example:
    """One fact.

    Attributes:
        prompt: what is asked.
        target: the new answer.
        subject: facts about the same subject never meet in one batch.
        rephrases: other prompts with the same answer; at least one.
        locality: prompts that the fact must not touch, each with its answer; at least one.
    """

    prompt: str
    target: str
    subject: str
    rephrases: tuple[str, ...]
    locality: tuple[tuple[str, str], ...]

    @property
    def subject_id(self) -> int:
        """A number for the subject, the same in every run."""
        return int.from_bytes(hashlib.sha256(self.subject.encode()).digest()[:7], "big")


@dataclass(frozen=True, slots=True)
class Draw:
    """One fact with one of its rephrases and one of its locality prompts."""

    example: Example
    rephrase: str
    locality: tuple[str, str]


def split(examples: Sequence[Example], num_validation: int) -> tuple[list[Example], list[Example]]:
    """Training and validation examples; no subject is in both.

    The choice depends on the subjects alone: the same file always gives the same split.

    Raises:
        InvalidRequestError: too few examples, or one without rephrase or locality prompt.
    """
    for number, example in enumerate(examples):
        if not example.rephrases or not example.locality:
            raise InvalidRequestError(
                f"record {number} has no rephrase or no locality prompt; RECIPE learns from both.",
                field="data",
            )
    ordered = sorted(examples, key=lambda example: (example.subject_id, example.prompt))
    if len(ordered) <= 2 * num_validation:
        raise InvalidRequestError(
            f"{len(ordered):,} records are too few for {num_validation:,} of validation; give more "
            "data, or lower num_validation.",
            field="data",
        )
    cut = num_validation
    while cut < len(ordered) and ordered[cut].subject == ordered[cut - 1].subject:
        cut += 1
    return ordered[cut:], ordered[:cut]


_Change = tuple[float, Callable[[Example, random.Random], Example]]
"""A share of facts, and how they are told otherwise."""


class Inventor:
    """Puts made-up names in place of subjects, so that the encoder learns to compare names.

    With few subjects it would rather learn each of them by heart, and know no new one. Ours.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        """Takes the words that names are made of from the examples' subjects."""
        self._words = sorted({word for example in examples for word in example.subject.split()})

    def retold(self, example: Example, rng: random.Random) -> Example:
        """The same fact about somebody who does not exist.

        The true subject's own prompt is then one that the fact must not touch. An example whose
        texts do not all name their subject stays as it is.
        """
        texts = (example.prompt, *example.rephrases)
        if not all(example.subject in text for text in texts):
            return example
        name = " ".join(rng.choice(self._words) for _ in range(rng.choice((1, 2, 2, 3))))
        prompt, *rephrases = (text.replace(example.subject, name) for text in texts)
        touched = (rng.choice(texts), example.target)
        return replace(
            example,
            prompt=prompt,
            subject=name,
            rephrases=tuple(rephrases),
            locality=(*example.locality, *[touched] * len(example.locality)),
        )


class Borrower:
    """Asks about a fact as others of its relation are asked: one rephrase each is few. Ours."""

    def __init__(self, examples: Sequence[Example]) -> None:
        """Takes the rephrases that name their subject."""
        self._frames = frames_of(examples)

    def asked(self, example: Example, rng: random.Random) -> Example:
        """The same fact with the rephrase of another one; as it is if there is no other."""
        others = self._frames.rephrases(example.prompt, example.subject, 1, rng)
        return replace(example, rephrases=others) if others else example


def frames_of(examples: Sequence[Example]) -> Frames:
    """How the relations of examples are asked."""
    return Frames.of((e.prompt, e.subject, e.rephrases) for e in examples)


class Digresser:
    """Asks something else about a fact's subject, which the fact must not touch. Ours.

    Data name other subjects in their locality prompts; a retriever that learns from those alone
    claims whatever names the subject of an edit.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        """Takes the examples' relations: prompts without their subjects, and what they ask for."""
        self._frames = frames_of(examples)
        targets: dict[str, set[str]] = {frame: set() for frame in self._frames.by_prompt}
        for example in examples:
            if (frame := Frames.frame(example.prompt, example.subject)) in targets:
                targets[frame].add(example.target)
        self._others = {
            frame: [
                other
                for other, theirs in sorted(targets.items())
                if len(own & theirs) <= _MOST_SHARED * min(len(own), len(theirs))
            ]
            for frame, own in targets.items()
        }

    def asked_else(self, example: Example, rng: random.Random) -> Example:
        """The same fact with such a locality prompt; as it is if its relation was met once only.

        Relations are taken for different ones if they hardly share a target.
        """
        others = self._others.get(Frames.frame(example.prompt, example.subject), ())
        if not others:
            return example
        prompt = Frames.filled(rng.choice(others), example.subject)
        ways = (prompt, *self._frames.rephrases(prompt, example.subject, 1, rng))
        return replace(example, locality=((rng.choice(ways), example.target),))


class Answerer:
    """Gives facts other answers, so that MLP_P learns to say any word, not those of the data. Ours.

    Training data have few distinct targets; a target that is not among them would be said wrong.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        """Takes the words that answers are made of from the examples' texts."""
        texts = [t for e in examples for t in (e.prompt, *e.rephrases, *e.locality[0])]
        words = Counter(word.strip(_PUNCTUATION) for text in texts for word in text.split())
        self._words = sorted(w for w, n in words.items() if w.isalpha() and n >= _FEWEST_TIMES)

    def answered(self, example: Example, rng: random.Random) -> Example:
        """The same fact with a word for an answer."""
        return replace(example, target=rng.choice(self._words)) if self._words else example


class Deck:
    """All that batches are drawn from."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        likes: Sequence[Sequence[int]] = (),
        group: int = 1,
        borrowed: float = 0.0,
        invented: float = 0.0,
        answered: float = 0.0,
        digressing: float = 0.0,
    ) -> None:
        """Takes the examples of training.

        Args:
            examples: of training.
            likes: for each example, the numbers of those that are most like it.
            group: facts of a batch that are like one another: keys that are hard to tell apart.
            borrowed: share of facts that are asked as others of their relation are.
            invented: share of facts that are told about made-up names.
            answered: share of facts that are told with made-up answers.
            digressing: share of facts whose locality prompt asks something else about the subject.
        """
        self._examples, self._likes, self._group = examples, likes, group
        self._digression = (digressing, Digresser(examples).asked_else)
        self._changes = (
            (borrowed, Borrower(examples).asked),
            (invented, Inventor(examples).retold),
            self._digression,
            (answered, Answerer(examples).answered),
        )

    def as_told(self, number: int, rng: random.Random) -> list[Draw]:
        """The first so many examples, unchanged but for their locality prompts."""
        told = [_changed(e, (self._digression,), rng) for e in self._examples[:number]]
        return [_drawn(example, rng) for example in told]

    def epoch(self, size: int, rng: random.Random) -> Iterator[list[Draw]]:
        """Batches of about as many draws as there are examples; in each, all subjects differ.

        With `group` 1 each example comes once at most; one whose subject is in the batch already
        waits for the next. Else each of `size / group` examples brings some that are like it.

        Args:
            size: of a batch.
            rng: of all choices.
        """
        waiting = list(range(len(self._examples)))
        rng.shuffle(waiting)
        waiting.reverse()
        drawn = 0
        while waiting and drawn + size <= len(self._examples):
            batch: dict[str, Example] = {}
            postponed: list[int] = []
            while waiting and len(batch) < size:
                first = waiting.pop()
                if self._examples[first].subject in batch:
                    postponed.append(first)
                else:
                    self._add_group(batch, first, min(self._group, size - len(batch)), rng)
            waiting.extend(reversed(postponed))
            if len(batch) < size:
                return
            drawn += size
            yield [_drawn(_changed(e, self._changes, rng), rng) for e in batch.values()]

    def _add_group(
        self, batch: dict[str, Example], first: int, size: int, rng: random.Random
    ) -> None:
        near = list(self._likes[first]) if size > 1 else []
        rng.shuffle(near)
        wanted = len(batch) + size
        for number in (first, *near):
            example = self._examples[number]
            if len(batch) < wanted:
                batch.setdefault(example.subject, example)


def _changed(example: Example, changes: Iterable[_Change], rng: random.Random) -> Example:
    for share, change in changes:
        if share and rng.random() < share:
            example = change(example, rng)
    return example


def _drawn(example: Example, rng: random.Random) -> Draw:
    return Draw(example, rng.choice(example.rephrases), rng.choice(example.locality))
