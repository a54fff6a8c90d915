"""The demo model's training data: facts, their phrasings, text generated from both, and edits.

The data is in `facts/*.toml` (one kind of subject each), `filler.toml` and `edits.toml`.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from errata.errors import InvalidInputError

_MAX_SENTENCES = 8
_FILLER_SHARE = 0.1
_PROFILE_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact; (subject, relation) is unique."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True, slots=True)
class DemoProbe:
    """A prompt and its answer, which an edit of another fact must not change."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class DemoEdit:
    """An edit that contradicts one fact, with the prompts that check it.

    Attributes:
        prompt: contains `subject`.
        target: without leading space.
        subject: the fact's subject.
        rephrases: other prompts for the same fact.
        neighbours: probes for the same relation of other subjects.
        same_subject: probes for other relations of the same subject; empty if it has none.
    """

    prompt: str
    target: str
    subject: str
    rephrases: tuple[str, ...]
    neighbours: tuple[DemoProbe, ...]
    same_subject: tuple[DemoProbe, ...]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Relation(_Data):
    """Templates for a relation; each ends with the object and a full stop."""

    follow_up: str
    phrasings: list[str] = Field(min_length=3)

    @model_validator(mode="after")
    def _check_templates(self) -> Relation:
        for template in [self.follow_up, *self.phrasings]:
            if not template.endswith("{object}."):
                raise ValueError(f"{template!r} must end with '{{object}}.'")
        for template in self.phrasings:
            if template.count("{subject}") != 1:
                raise ValueError(f"{template!r} must name {{subject}} once")
        return self


class SubjectKind(_Data):
    """Subjects of one kind, sentences about all of them, and their objects by relation."""

    sentences: list[str] = Field(min_length=1)
    relations: dict[str, Relation] = Field(min_length=1)
    subjects: dict[str, dict[str, str]] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_subjects(self) -> SubjectKind:
        for subject, objects in self.subjects.items():
            if not objects:
                raise ValueError(f"{subject!r} has no fact")
            for relation, answer in objects.items():
                if relation not in self.relations:
                    raise ValueError(f"{subject!r} has the unknown relation {relation!r}")
                if not answer or "." in answer or answer != answer.strip():
                    raise ValueError(f"{subject!r}: {relation} = {answer!r} is empty or unclean")
        return self

    def facts(self) -> Iterator[Fact]:
        """Yields the facts in file order."""
        for subject, objects in self.subjects.items():
            for relation, answer in objects.items():
                yield Fact(subject, relation, answer)


class _Filler(_Data):
    sentences: list[str] = Field(min_length=1)


class _EditRow(_Data):
    subject: str
    relation: str
    target: str
    neighbours: list[str] = Field(min_length=1)


class _EditRows(_Data):
    edits: list[_EditRow] = Field(min_length=1)


_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Corpus:
    """All demo data; `load_corpus` reads it."""

    kinds: tuple[SubjectKind, ...]
    filler: tuple[str, ...]
    edits: tuple[_EditRow, ...]

    def facts(self) -> tuple[Fact, ...]:
        """All facts, in file order."""
        return tuple(fact for kind in self.kinds for fact in kind.facts())

    def relations(self) -> dict[str, Relation]:
        """All relations by name, in file order."""
        return {name: relation for kind in self.kinds for name, relation in kind.relations.items()}

    def training_text(self, seed: int, num_paragraphs: int) -> list[str]:
        """Paragraphs of one to eight sentences that state facts in random order.

        Two in five passages state several facts about one subject, with pronouns. A quarter of the
        phrasings of each fact are withheld for a given seed, so that a model that answers them
        has learned to generalise.

        Args:
            seed: fixes every choice, including the withheld phrasings.
            num_paragraphs: how many.
        """
        sentences = {fact: self._training_sentences(fact, seed) for fact in self.facts()}
        rng = random.Random(f"{seed}/text")
        return [self._paragraph(rng, sentences) for _ in range(num_paragraphs)]

    def demo_edits(self) -> tuple[DemoEdit, ...]:
        """The curated edits with their checks."""
        answers = {(fact.subject, fact.relation): fact.object for fact in self.facts()}
        return tuple(self._demo_edit(row, answers) for row in self.edits)

    def _training_sentences(self, fact: Fact, seed: int) -> list[str]:
        phrasings = self.relations()[fact.relation].phrasings
        rng = random.Random(f"{seed}/{fact.relation}/{fact.subject}")
        kept = rng.sample(phrasings, len(phrasings) - round(len(phrasings) / 4))
        return [_fill(phrasing, fact) for phrasing in kept]

    def _paragraph(self, rng: random.Random, sentences: dict[Fact, list[str]]) -> str:
        facts = list(sentences)
        length = rng.randint(1, _MAX_SENTENCES)
        paragraph: list[str] = []
        while len(paragraph) < length:
            kind_of_passage = rng.random()
            if kind_of_passage < _FILLER_SHARE:
                paragraph.append(rng.choice(self.filler))
            elif kind_of_passage < _FILLER_SHARE + _PROFILE_SHARE:
                paragraph.extend(self._profile(rng))
            else:
                paragraph.append(rng.choice(sentences[rng.choice(facts)]))
        return " ".join(paragraph)

    def _profile(self, rng: random.Random) -> list[str]:
        kind = rng.choice(self.kinds)
        subject, objects = rng.choice(list(kind.subjects.items()))
        relations = rng.sample(list(objects), rng.randint(0, len(objects)))
        follow_ups = [
            kind.relations[relation].follow_up.format(object=objects[relation])
            for relation in relations
        ]
        return [rng.choice(kind.sentences).format(subject=subject), *follow_ups]

    def _demo_edit(self, row: _EditRow, answers: dict[tuple[str, str], str]) -> DemoEdit:
        relations = self.relations()
        prompt, *rephrases = prompts(relations[row.relation], row.subject)
        return DemoEdit(
            prompt=prompt,
            target=row.target,
            subject=row.subject,
            rephrases=tuple(rephrases),
            neighbours=tuple(
                DemoProbe(
                    prompts(relations[row.relation], neighbour)[0],
                    answers[neighbour, row.relation],
                )
                for neighbour in row.neighbours
            ),
            same_subject=tuple(
                DemoProbe(prompts(relations[relation], subject)[0], answer)
                for (subject, relation), answer in answers.items()
                if subject == row.subject and relation != row.relation
            ),
        )


def load_corpus(root: Traversable | None = None) -> Corpus:
    """Reads and checks the demo data.

    Args:
        root: folder with `facts/`, `filler.toml` and `edits.toml`; the package's own by default.

    Raises:
        InvalidInputError: a file is not TOML or breaks a rule; the message names file and entry.
    """
    root = root or files(__package__)
    fact_files = sorted(
        (file for file in (root / "facts").iterdir() if file.name.endswith(".toml")),
        key=lambda file: file.name,
    )
    corpus = Corpus(
        kinds=tuple(_read(file, SubjectKind) for file in fact_files),
        filler=tuple(_read(root / "filler.toml", _Filler).sentences),
        edits=tuple(_read(root / "edits.toml", _EditRows).edits),
    )
    _check(corpus)
    return corpus


def prompts(relation: Relation, subject: str) -> list[str]:
    """A relation's phrasings for a subject, each cut off before its object."""
    return [
        phrasing.removesuffix("{object}.").rstrip().format(subject=subject)
        for phrasing in relation.phrasings
    ]


def _fill(template: str, fact: Fact) -> str:
    return template.format(subject=fact.subject, object=fact.object)


def _read(file: Traversable, model: type[_Model]) -> _Model:
    try:
        content: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        return model.model_validate(content)
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise InvalidInputError(f"{file}: {error}", file=file) from error


def _check(corpus: Corpus) -> None:
    """Raises InvalidInputError if files contradict each other."""
    known = {(fact.subject, fact.relation): fact.object for fact in corpus.facts()}
    relations: set[str] = set()
    for kind in corpus.kinds:
        if twice := relations & set(kind.relations):
            raise InvalidInputError(f"facts/: {min(twice)!r} is in two files; rename one")
        relations |= set(kind.relations)
    words = set(known.values()) | {subject for subject, _ in known}
    for row in corpus.edits:
        missing = [
            name for name in [row.subject, *row.neighbours] if (name, row.relation) not in known
        ]
        if missing:
            raise InvalidInputError(f"edits.toml: no fact {row.relation} of {missing[0]!r}")
        if row.target not in words or row.target == known[row.subject, row.relation]:
            raise InvalidInputError(
                f"edits.toml: {row.target!r} must occur in a fact other than the edited one"
            )
