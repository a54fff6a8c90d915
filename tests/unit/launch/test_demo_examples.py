"""Training examples of the demo's lane model."""

from __future__ import annotations

from errata import demo
from errata.launch.demo_examples import demo_examples


def test_examples_contradict_the_corpus_and_validation_asks_about_known_subjects() -> None:
    corpus = demo.load_corpus()
    train, held_out = demo_examples(corpus, 30)
    facts = {(fact.subject, fact.relation): fact.object for fact in corpus.facts()}
    asked = {
        (prompt, fact.subject): fact.object
        for fact in corpus.facts()
        for prompt in demo.prompts(corpus.relations()[fact.relation], fact.subject)
    }
    assert len(facts) > 500
    assert len(held_out) == 30
    assert len(train) > 5 * len(facts)
    for example in (*train[::97], *held_out):
        true = asked[example.prompt, example.subject]
        assert example.target != true
        assert all(asked[text, example.subject] == true for text in example.rephrases)
        own = {example.prompt, *example.rephrases}
        assert own.isdisjoint(prompt for prompt, _ in example.locality)
    assert {example.subject for example in held_out} <= {example.subject for example in train}
    assert demo_examples(corpus, 30) == (train, held_out)
