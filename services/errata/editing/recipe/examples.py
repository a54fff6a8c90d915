"""What meta-training learns from: facts with rephrases and locality prompts, drawn in batches."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


def epoch(examples: Sequence[Example], size: int, rng: random.Random) -> Iterator[list[Draw]]:
    """Batches of one pass over the examples in random order; in each, all subjects differ.

    An example whose subject is in the batch already waits for the next one. The last batch is
    left out if it is not full.
    """
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
        yield [
            Draw(example, rng.choice(example.rephrases), rng.choice(example.locality))
            for example in batch.values()
        ]
