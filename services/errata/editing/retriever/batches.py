"""Batches of training facts, in which all subjects differ."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from errata.editing.retriever.augmentation import Answerer, Borrower, Digresser, Inventor
from errata.editing.retriever.examples import Example, Sample

_Change = tuple[float, Callable[[Example, random.Random], Example]]
"""A share of facts, and how they are told otherwise."""


class BatchSampler:
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

    def as_told(self, number: int, rng: random.Random) -> list[Sample]:
        """The first so many examples, unchanged but for their locality prompts."""
        told = [_changed(e, (self._digression,), rng) for e in self._examples[:number]]
        return [_drawn(example, rng) for example in told]

    def epoch(self, size: int, rng: random.Random) -> Iterator[list[Sample]]:
        """Batches of about as many samples as there are examples; in each, all subjects differ.

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


def _drawn(example: Example, rng: random.Random) -> Sample:
    return Sample(example, rng.choice(example.rephrases), rng.choice(example.locality))
