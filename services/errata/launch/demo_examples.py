"""Training examples for RECIPE's lane model, made from the demo corpus."""

from __future__ import annotations

import random

from errata.demo import Corpus, Fact, prompts
from errata.editing.retriever.examples import Example

_VARIANTS = 6  # of each fact: other answers, another prompt, other neighbours
_NEIGHBOURS = 6  # other subjects of the relation that an edit must not touch


def demo_examples(corpus: Corpus, num_held_out: int) -> tuple[list[Example], list[Example]]:
    """Edits that contradict the corpus, for training and for validation.

    Locality prompts ask for the same relation of other subjects, and for other relations of the
    same subject. With a few hundred subjects, no encoder generalises to new ones: validation edits
    the same subjects to other answers.

    Args:
        corpus: the demo's.
        num_held_out: number of validation examples, each about another fact.
    """
    facts = corpus.facts()
    found = [
        [e for fact in facts for e in _edit_of(fact, corpus, facts, random.Random(f"{v}/{fact}"))]
        for v in range(_VARIANTS + 1)
    ]
    held_out = random.Random(0).sample(found[-1], min(num_held_out, len(found[-1])))
    return [example for variant in found[:-1] for example in variant], held_out


def _edit_of(
    fact: Fact, corpus: Corpus, facts: tuple[Fact, ...], rng: random.Random
) -> list[Example]:
    """One edit of a fact, or none if its relation has no other answer."""
    relations = corpus.relations()
    alike = [other for other in facts if other.relation == fact.relation]
    answers = sorted({other.object for other in alike} - {fact.object})
    if not answers:
        return []
    same_subject = [o for o in facts if o.subject == fact.subject and o.relation != fact.relation]
    phrasings = prompts(relations[fact.relation], fact.subject)
    first, *others = rng.sample(phrasings, len(phrasings))
    strangers = [other for other in alike if other.subject != fact.subject]
    near = [*rng.sample(strangers, min(_NEIGHBOURS, len(strangers))), *same_subject]
    return [
        Example(
            prompt=first,
            target=rng.choice(answers),
            subject=fact.subject,
            rephrases=tuple(others),
            locality=tuple(
                (rng.choice(prompts(relations[o.relation], o.subject)), o.object) for o in near
            ),
        )
    ]
