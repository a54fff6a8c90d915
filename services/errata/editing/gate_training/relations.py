"""Wordings of many relations: questions and beginnings of sentences, with a gap for the subject.

They are the project's own. A training reads those of its relations; the held-out relations are for
validation only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

GAP = "{}"


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation.

    Attributes:
        name: of the relation.
        subjects: kinds of its subjects, such as `person` (`Names`).
        answer: kind of its answers.
        topic: relations of one topic can have the same answer; a question about one of them says
            nothing about how another one must be decided.
        wordings: with `GAP` for the subject.
        held_out: whether no training may read it.
    """

    name: str
    subjects: tuple[str, ...]
    answer: str
    topic: str
    wordings: tuple[str, ...]
    held_out: bool

    def asked(self, wording: str, subject: str) -> str:
        """A wording with a subject inserted."""
        return wording.replace(GAP, subject)


def load_relations() -> tuple[Relation, ...]:
    """All relations of the project."""
    text = files(__package__).joinpath("relations.json").read_text(encoding="utf-8")
    return tuple(
        Relation(
            name,
            tuple(found["subjects"]),
            found["answer"],
            found["topic"],
            tuple(found["wordings"]),
            found["held_out"],
        )
        for name, found in json.loads(text).items()
    )


def by_wording(relations: Sequence[Relation]) -> Mapping[str, Relation]:
    """The relation of each wording; of equal wordings, the first one's."""
    found: dict[str, Relation] = {}
    for relation in relations:
        for wording in relation.wordings:
            found.setdefault(wording, relation)
    return found
