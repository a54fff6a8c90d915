"""Batches of a gate's training: keys of stored facts, and queries that belong to one or none."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from errata.editing.gate_training.facts import Fact, FactSource
from errata.editing.retriever.lane_model import knowledge

OUTSIDE = -1


@dataclass(frozen=True, slots=True)
class Query:
    """A prompt.

    Attributes:
        text: of the prompt.
        key: index of the key that must claim it, or `OUTSIDE`.
        identity: of the fact that it asks for (`Fact.identity`).
    """

    text: str
    key: int
    identity: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Stored facts and queries.

    Attributes:
        statements: knowledge statements of the stored facts.
        identities: of the stored facts.
        queries: of stored facts and of others.
    """

    statements: tuple[str, ...]
    identities: tuple[str, ...]
    queries: tuple[Query, ...]


def batches(
    source: FactSource, size: int, records: float, stored: float, rng: random.Random
) -> Iterator[Batch]:
    """An endless sequence of batches.

    Facts come in groups that are hard to tell apart: one subject in several relations, one relation
    with near-identical names, or several records of one relation. Facts that are not stored only
    ask, and no key may claim their queries.

    Args:
        source: of facts.
        size: facts of a batch.
        records: share of groups that come from records.
        stored: share of facts that are stored.
        rng: for all random choices.
    """
    while True:
        facts: list[Fact] = []
        while len(facts) < size:
            if source.examples and rng.random() < records:
                first = rng.randrange(len(source.examples))
                facts += source.record(first, rng)
                facts += source.record(source.like(first, rng), rng)
            else:
                facts += source.invented(rng)
        yield batch_of(facts, stored, rng)


def batch_of(facts: list[Fact], stored: float, rng: random.Random) -> Batch:
    """A batch of facts; each is stored with probability `stored`, but no identity twice."""
    statements: list[str] = []
    identities: list[str] = []
    queries: list[Query] = []
    left: list[Fact] = []
    for fact in facts:
        if fact.identity in identities or rng.random() >= stored:
            left.append(fact)
            continue
        place = len(statements)
        statements.append(knowledge(fact.prompt, fact.target))
        identities.append(fact.identity)
        queries += [Query(text, place, fact.identity) for text in fact.questions]
        queries += [Query(text, OUTSIDE, "") for text in fact.outside]
    for fact in left:
        if fact.identity not in identities:
            queries.append(Query(rng.choice(fact.questions), OUTSIDE, fact.identity))
    return Batch(tuple(statements), tuple(identities), tuple(queries))
