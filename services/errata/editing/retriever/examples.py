"""Training facts of the retriever: prompts with rephrases and locality prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from errata.editing.retriever.frames import Frames
from errata.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Example:
    """One fact.

    Attributes:
        prompt: the question.
        target: the new answer.
        subject: two facts about the same subject are never in the same batch.
        rephrases: other prompts with the same answer; at least one.
        locality: prompts that the fact must not affect, each with its answer; at least one.
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
class Sample:
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
                f"record {number} has no rephrase or no locality prompt; training needs both.",
                field="data",
            )
    ordered = sorted(examples, key=lambda example: (example.subject_id, example.prompt))
    if len(ordered) <= 2 * num_validation:
        raise InvalidRequestError(
            f"{len(ordered):,} records are too few for {num_validation:,} validation examples; "
            "provide more data, or lower num_validation.",
            field="data",
        )
    cut = num_validation
    while cut < len(ordered) and ordered[cut].subject == ordered[cut - 1].subject:
        cut += 1
    return ordered[cut:], ordered[:cut]


def wordings_of(examples: Sequence[Example]) -> frozenset[str]:
    """The wordings of all prompts and rephrases, as in `GateModel.learned`."""
    texts = ((text, e.subject) for e in examples for text in (e.prompt, *e.rephrases))
    return frozenset(filter(None, (Frames.frame(text, subject) for text, subject in texts)))


def frames_of(examples: Sequence[Example]) -> Frames:
    """The frames of the examples' relations."""
    return Frames.of((e.prompt, e.subject, e.rephrases) for e in examples)
