"""Batches of training facts, in which all subjects differ."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from errata.editing.retriever.augmentation import Answerer, Borrower, Digresser, Inventor
from errata.editing.retriever.examples import Example, Sample

_Augmentation = tuple[float, Callable[[Example, random.Random], Example]]
"""The share of facts that is changed, and the change."""


class BatchSampler:
    """Draws batches from the training examples."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        neighbours: Sequence[Sequence[int]] = (),
        group: int = 1,
        borrowed: float = 0.0,
        invented: float = 0.0,
        answered: float = 0.0,
        digressing: float = 0.0,
    ) -> None:
        """Takes the training examples.

        Args:
            examples: of training.
            neighbours: for each example, the indices of the examples that are most similar to it.
            group: size of the groups of similar facts in a batch; their keys are hard to tell
                apart.
            borrowed: share of facts with a rephrase of another fact of their relation.
            invented: share of facts with an invented subject.
            answered: share of facts with a random word as the target.
            digressing: share of facts whose locality prompt asks for another relation of their
                subject.
        """
        self._examples, self._neighbours, self._group = examples, neighbours, group
        self._digression = (digressing, Digresser(examples).with_digression)
        self._augmentations = (
            (borrowed, Borrower(examples).with_borrowed_rephrase),
            (invented, Inventor(examples).with_invented_subject),
            self._digression,
            (answered, Answerer(examples).with_other_target),
        )

    def first(self, number: int, rng: random.Random) -> list[Sample]:
        """The first `number` examples; only their locality prompts are augmented."""
        examples = [_augmented(e, (self._digression,), rng) for e in self._examples[:number]]
        return [_sampled(example, rng) for example in examples]

    def epoch(self, size: int, rng: random.Random) -> Iterator[list[Sample]]:
        """Batches with about as many samples as there are examples; subjects differ in each.

        With `group` 1, each example occurs at most once; an example whose subject is already in
        the batch is postponed to the next batch. Otherwise, each of `size / group` examples is
        followed by some of its neighbours.

        Args:
            size: samples of a batch.
            rng: for all random choices.
        """
        pending = list(range(len(self._examples)))
        rng.shuffle(pending)
        pending.reverse()
        num_drawn = 0
        while pending and num_drawn + size <= len(self._examples):
            batch: dict[str, Example] = {}
            postponed: list[int] = []
            while pending and len(batch) < size:
                first = pending.pop()
                if self._examples[first].subject in batch:
                    postponed.append(first)
                else:
                    self._add_group(batch, first, min(self._group, size - len(batch)), rng)
            pending.extend(reversed(postponed))
            if len(batch) < size:
                return
            num_drawn += size
            yield [_sampled(_augmented(e, self._augmentations, rng), rng) for e in batch.values()]

    def _add_group(
        self, batch: dict[str, Example], first: int, size: int, rng: random.Random
    ) -> None:
        near = list(self._neighbours[first]) if size > 1 else []
        rng.shuffle(near)
        wanted = len(batch) + size
        for number in (first, *near):
            example = self._examples[number]
            if len(batch) < wanted:
                batch.setdefault(example.subject, example)


def _augmented(
    example: Example, augmentations: Iterable[_Augmentation], rng: random.Random
) -> Example:
    for share, change in augmentations:
        if share and rng.random() < share:
            example = change(example, rng)
    return example


def _sampled(example: Example, rng: random.Random) -> Sample:
    return Sample(example, rng.choice(example.rephrases), rng.choice(example.locality))
