"""Facts of the demo corpus as what RECIPE's meta-training learns from."""

from __future__ import annotations

import random

from errata.demo import Corpus, Fact, prompts
from errata.editing.recipe.examples import Example

_TARGETS = 6  # other answers that each fact is edited to
_NEIGHBOURS = 6  # other subjects of the relation that an edit must not touch


def demo_examples(corpus: Corpus, seed: int = 0) -> list[Example]:
    """Edits that contradict the corpus, each fact several times with other answers.

    Locality prompts are the same relation of other subjects and other relations of the same
    subject.

    Args:
        corpus: the demo's.
        seed: of all choices.
    """
    facts = corpus.facts()
    rng = random.Random(seed)
    return [example for fact in facts for example in _edits_of(fact, corpus, facts, rng)]


def _edits_of(
    fact: Fact, corpus: Corpus, facts: tuple[Fact, ...], rng: random.Random
) -> list[Example]:
    relations = corpus.relations()
    alike = [other for other in facts if other.relation == fact.relation]
    answers = sorted({other.object for other in alike} - {fact.object})
    if not answers:
        return []
    same_subject = [o for o in facts if o.subject == fact.subject and o.relation != fact.relation]
    made = []
    for target in rng.sample(answers, min(_TARGETS, len(answers))):
        phrasings = prompts(relations[fact.relation], fact.subject)
        first, *others = rng.sample(phrasings, len(phrasings))
        strangers = [other for other in alike if other.subject != fact.subject]
        near = [*rng.sample(strangers, min(_NEIGHBOURS, len(strangers))), *same_subject]
        made.append(
            Example(
                prompt=first,
                target=target,
                subject=fact.subject,
                rephrases=tuple(others),
                locality=tuple(
                    (rng.choice(prompts(relations[o.relation], o.subject)), o.object) for o in near
                ),
            )
        )
    return made
