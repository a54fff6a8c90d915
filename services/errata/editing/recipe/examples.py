"""What meta-training learns from: facts with rephrases and locality prompts, drawn in batches."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from errata.errors import InvalidRequestError


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
            "data, or lower --validation.",
            field="data",
        )
    cut = num_validation
    while cut < len(ordered) and ordered[cut].subject == ordered[cut - 1].subject:
        cut += 1
    return ordered[cut:], ordered[:cut]


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


def epoch(
    examples: Sequence[Example], size: int, rng: random.Random, *, invented: float = 0.0
) -> Iterator[list[Draw]]:
    """Batches of one pass over the examples in random order; in each, all subjects differ.

    An example whose subject is in the batch already waits for the next one. The last batch is
    left out if it is not full.

    Args:
        examples: of training.
        size: of a batch.
        rng: of all choices.
        invented: share of facts that are told about made-up names.
    """
    inventor = Inventor(examples)
    waiting = list(examples)
    rng.shuffle(waiting)
    waiting.reverse()
    while len(waiting) >= size:
        batch: dict[str, Example] = {}
        postponed: list[Example] = []
        while waiting and len(batch) < size:
            example = waiting.pop()
            if example.subject in batch:
                postponed.append(example)
            else:
                batch[example.subject] = example
        waiting.extend(reversed(postponed))
        if len(batch) < size:
            return
        told = [
            inventor.retold(example, rng) if rng.random() < invented else example
            for example in batch.values()
        ]
        yield [Draw(e, rng.choice(e.rephrases), rng.choice(e.locality)) for e in told]
