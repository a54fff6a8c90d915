"""One edit of a data set, with everything that is asked about it; the same for every data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RippleQuestion:
    """A prompt and the answers of which any one is right."""

    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One edit and its probes.

    Attributes:
        case_id: of the data set, or the record's number.
        prompt: contains `subject`.
        subject: whom or what the fact is about.
        target_new: the answer after the edit.
        target_true: the answer before it; None where the data set has none.
        rephrases: other prompts that shall have the new answer.
        locality: prompts that shall stay as they are, each with its own true answer.
        generation_prompts: starts of texts about the subject, for fluency and consistency.
        brought: rephrasings that the edit itself brings; nothing is measured on them.
        ripples: RippleEdits' groups of questions whose answers follow from the edit.
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
    ripples: Mapping[str, tuple[RippleQuestion, ...]] = field(default_factory=dict)
