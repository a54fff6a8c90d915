"""Facts to train on: those of records, and facts about invented subjects in any relation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from errata.editing.gate_training.names import Names
from errata.editing.gate_training.relations import GAP, Relation, by_wording
from errata.editing.gate_training.wordings import varied
from errata.editing.retriever.examples import Example

_NEAR_SHARE = 0.5  # of records, with a query about a near-identical name


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact that an edit could state.

    Attributes:
        subject: what it is about.
        topic: two facts of one subject and one topic can have the same answer.
        prompt: of the edit.
        target: of the edit.
        questions: queries that the edit must claim.
        outside: queries about other subjects, which it must not claim.
    """

    subject: str
    topic: str
    prompt: str
    target: str
    questions: tuple[str, ...]
    outside: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Facts with equal identities are not wrong for one another's queries."""
        return f"{self.subject}|{self.topic}"


class FactSource:
    """Draws facts."""

    def __init__(
        self,
        examples: Sequence[Example],
        relations: Sequence[Relation],
        *,
        varied_share: float,
    ) -> None:
        """Takes what facts are made of.

        Args:
            examples: records; prompts that equal a wording belong to its relation.
            relations: those of the training, or those of a validation.
            varied_share: share of queries whose wording is changed (`wordings.varied`).
        """
        self.examples, self._relations, self._varied = examples, relations, varied_share
        known = by_wording(relations)
        self._relation_of = [known.get(_frame(e.prompt, e.subject)) for e in examples]
        named: dict[str, list[str]] = {}
        for example, relation in zip(examples, self._relation_of, strict=True):
            if relation is not None and relation.subjects != ("any",):
                named.setdefault(relation.subjects[0], []).append(example.subject)
        self._kinds = sorted({kind for relation in relations for kind in relation.subjects})
        self._by_kind = {
            kind: [r for r in relations if {kind, "any"} & set(r.subjects)] for kind in self._kinds
        }
        self.names = Names(named)
        self._same: dict[str, list[int]] = {}
        for number in range(len(examples)):
            self._same.setdefault(self._topic(number), []).append(number)

    def record(self, number: int, rng: random.Random) -> list[Fact]:
        """The fact of a record, perhaps with another fact about its subject.

        Args:
            number: of the record.
            rng: for all random choices.
        """
        example, relation = self.examples[number], self._relation_of[number]
        wordings = list(example.rephrases)
        if relation is not None and len(relation.wordings) > 1:
            other = rng.choice(relation.wordings)
            if other != _frame(example.prompt, example.subject):
                wordings.append(self._asked(relation, other, example.subject, rng))
        rng.shuffle(wordings)
        if rng.random() < 0.15:
            wordings.insert(0, example.prompt)
        outside = tuple(text for text, _ in example.locality[:1])
        named = [text for text in wordings if example.subject and example.subject in text]
        if named and rng.random() < _NEAR_SHARE:
            near = self.names.near(example.subject, rng)
            outside += (rng.choice(named).replace(example.subject, near),)
        found = [
            Fact(
                example.subject,
                self._topic(number),
                example.prompt,
                example.target,
                tuple(wordings[:2]),
                outside,
            )
        ]
        kind = relation.subjects[0] if relation is not None else ""
        if kind in self._by_kind and rng.random() < 0.5:
            found += self._about(example.subject, kind, 1, rng, without={found[0].topic})
        return found

    def like(self, number: int, rng: random.Random) -> int:
        """Another record of the same topic."""
        return rng.choice(self._same[self._topic(number)])

    def invented(self, rng: random.Random) -> list[Fact]:
        """Two or three facts about one subject, perhaps with some about a near-identical name."""
        kind = rng.choice([k for k in self._kinds if k != "any" or len(self._kinds) == 1])
        subject = self.names.draw(kind, rng)
        found = self._about(subject, kind, rng.choice((2, 2, 3)), rng)
        if rng.random() < 0.6:
            near = self.names.near(subject, rng)
            topics = {fact.topic for fact in found}
            same = [r for r in self._by_kind[kind] if r.topic in topics]
            found += [self._fact(rng.choice(same), near, rng)]
        return found

    def _about(
        self,
        subject: str,
        kind: str,
        number: int,
        rng: random.Random,
        without: set[str] | frozenset[str] = frozenset(),
    ) -> list[Fact]:
        """Facts about one subject, each of another topic."""
        found: dict[str, Fact] = {}
        for relation in rng.sample(self._by_kind[kind], len(self._by_kind[kind])):
            if len(found) == number:
                break
            if relation.topic not in without:
                found.setdefault(relation.topic, self._fact(relation, subject, rng))
        return list(found.values())

    def _fact(self, relation: Relation, subject: str, rng: random.Random) -> Fact:
        first, *others = rng.sample(relation.wordings, min(3, len(relation.wordings)))
        return Fact(
            subject,
            relation.topic,
            relation.asked(first, subject),
            self.names.draw(relation.answer, rng),
            tuple(self._asked(relation, wording, subject, rng) for wording in others or [first]),
        )

    def _asked(self, relation: Relation, wording: str, subject: str, rng: random.Random) -> str:
        if rng.random() < self._varied:
            wording = varied(wording, rng)
        return relation.asked(wording, subject)

    def _topic(self, number: int) -> str:
        relation, example = self._relation_of[number], self.examples[number]
        if relation is not None:
            return relation.topic
        return _frame(example.prompt, example.subject)


def _frame(prompt: str, subject: str) -> str:
    return prompt.replace(subject, GAP)
