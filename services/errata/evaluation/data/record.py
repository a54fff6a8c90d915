"""One edit of a data set with everything that is asked about it; the same for all data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RippleQuestion:
    """A prompt and its accepted answers."""

    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RippleTest:
    """Questions whose answers follow from an edit, for a model that knows the other facts of it.

    Attributes:
        questions: after the edit.
        needs_all: whether all must be answered correctly, or one is enough.
        conditions: questions that the model must answer correctly before the edit; otherwise the
            test does not count, because the model could not have concluded anything.
    """

    questions: tuple[RippleQuestion, ...]
    needs_all: bool = False
    conditions: tuple[RippleQuestion, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One edit and its probes.

    Attributes:
        case_id: of the data set, or the record's number.
        prompt: contains `subject`.
        subject: person or thing that the fact is about.
        target_new: the answer after the edit.
        target_true: the answer before it; None if the data set has none.
        rephrases: other prompts that must get the new answer.
        locality: prompts whose answers must not change, each with its own true answer.
        generation_prompts: beginnings of texts about the subject, for fluency and consistency.
        brought: rephrasings submitted with the edit; nothing is measured on them.
        relation: as the file names it; empty if the file does not.
        ripples: RippleEdits' groups of tests whose answers follow from the edit.
    """

    case_id: str
    prompt: str
    subject: str
    target_new: str
    target_true: str | None
    rephrases: tuple[str, ...] = ()
    locality: tuple[tuple[str, str], ...] = ()
    generation_prompts: tuple[str, ...] = ()
    brought: tuple[str, ...] = ()
    relation: str = ""
    ripples: Mapping[str, tuple[RippleTest, ...]] = field(default_factory=dict)
