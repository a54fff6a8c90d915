"""Training data of a lane model: splits, batches and augmentation."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from errata.editing.retriever.augmentation import Answerer, Borrower, Digresser, Inventor
from errata.editing.retriever.batches import BatchSampler
from errata.editing.retriever.examples import frames_of, split
from errata.editing.retriever.frames import Frames
from errata.errors import InvalidRequestError
from tests.unit.editing.recipe_models import examples_of_towns


def test_the_split_is_by_subject_and_deterministic() -> None:
    examples = [replace(e, subject=f"S{n // 2}") for n, e in enumerate(examples_of_towns(40))]
    train, held_out = split(examples, 9)
    assert len(train) + len(held_out) == 40
    assert {e.subject for e in train}.isdisjoint(e.subject for e in held_out)
    shuffled = random.Random(1).sample(examples, len(examples))
    assert split(shuffled, 9) == (train, held_out)
    with pytest.raises(InvalidRequestError, match="too few"):
        split(examples, 20)
    with pytest.raises(InvalidRequestError, match="record 3"):
        split([*examples[:3], replace(examples[3], rephrases=())], 1)


def test_subjects_in_a_batch_differ_and_an_epoch_omits_few_examples() -> None:
    examples = [replace(e, subject=f"S{n % 10}") for n, e in enumerate(examples_of_towns(40))]
    batches = list(BatchSampler(examples).epoch(5, random.Random(0)))
    drawn = [sample.example for batch in batches for sample in batch]
    assert all(len({sample.example.subject for sample in batch}) == 5 for batch in batches)
    assert len(drawn) == len({e.prompt for e in drawn}) >= 35
    again = list(BatchSampler(examples).epoch(5, random.Random(0)))
    assert again == batches
    assert list(BatchSampler(examples).epoch(5, random.Random(1))) != batches


def test_an_invented_subject_replaces_the_subject_in_all_texts() -> None:
    examples = examples_of_towns(8)
    inventor, rng = Inventor(examples), random.Random(0)
    changed = inventor.with_invented_subject(examples[0], rng)
    assert changed.subject not in {example.subject for example in examples[:1]}
    assert changed.target == examples[0].target
    for before, after in zip(
        (examples[0].prompt, *examples[0].rephrases),
        (changed.prompt, *changed.rephrases),
        strict=True,
    ):
        assert after == before.replace("Nokia0", changed.subject)
    touched = {prompt for prompt, _ in changed.locality} - {p for p, _ in examples[0].locality}
    assert touched <= {examples[0].prompt, *examples[0].rephrases}, (
        "the true subject must not be affected"
    )
    odd = replace(examples[1], rephrases=("It comes from",))
    assert inventor.with_invented_subject(odd, rng) == odd, "one text lacks the subject"
    batches = list(BatchSampler(examples, invented=1.0).epoch(4, random.Random(0)))
    known = {example.subject for example in examples}
    drawn = {sample.example.subject for batch in batches for sample in batch}
    assert len(drawn - known) > 4
    assert list(BatchSampler(examples, invented=1.0).epoch(4, random.Random(0))) == batches


def test_a_batch_contains_groups_of_similar_facts() -> None:
    examples = examples_of_towns(20)
    neighbours = [[n ^ 1, (n + 10) % 20] for n in range(20)]
    batches = list(
        BatchSampler(examples, neighbours=neighbours, group=2).epoch(4, random.Random(0))
    )
    assert len(batches) == 5
    numbers = {e.subject: n for n, e in enumerate(examples)}
    for batch in batches:
        drawn = [numbers[sample.example.subject] for sample in batch]
        assert len(set(drawn)) == 4
        for first, second in (drawn[:2], drawn[2:]):
            assert second in neighbours[first]


def test_a_fact_borrows_rephrases_of_its_relation() -> None:
    examples = examples_of_towns(4)
    examples[0] = replace(examples[0], rephrases=("Where is Nokia0 at home? In",))
    odd = replace(examples[1], prompt="Lyon is", subject="Lyon", rephrases=("What is it?",))
    borrower, rng = Borrower([*examples, odd]), random.Random(0)
    seen = {borrower.with_borrowed_rephrase(examples[2], rng).rephrases[0] for _ in range(60)}
    assert seen == {"Where is Nokia2 at home? In", "Nokia2 comes from", "The home of Nokia2 is"}
    assert borrower.with_borrowed_rephrase(odd, rng) == odd, "its relation has no other fact"
    (batch,) = BatchSampler(examples, borrowed=1.0).epoch(4, random.Random(0))
    assert all(sample.example.subject in sample.rephrase for sample in batch)


def test_random_targets_are_frequent_words() -> None:
    examples, rng = examples_of_towns(), random.Random(0)
    answerer = Answerer(examples)
    made = {answerer.with_other_target(examples[0], rng).target for _ in range(200)}
    assert {"town", "founded"} <= made
    assert "Nokia3" not in made, "occurs once, and is not a word"
    changed = answerer.with_other_target(examples[0], rng)
    assert replace(changed, target=examples[0].target) == examples[0], "nothing else changes"
    drawn = [d for batch in BatchSampler(examples, answered=1.0).epoch(4, rng) for d in batch]
    assert {sample.example.target for sample in drawn} - {e.target for e in examples}


def test_rephrases_come_from_other_facts() -> None:
    examples, rng = examples_of_towns(), random.Random(0)
    frames, first = frames_of(examples), examples[0]
    rephrases = frames.rephrases(first.prompt, first.subject, 5, rng, ("Nokia0 comes from",))
    assert rephrases == ("The home of Nokia0 is",)
    assert frames.rephrases(first.prompt, first.subject, 5, rng, first.rephrases) == ()
    assert frames.rephrases("Where is home?", first.subject, 5, rng) == (), (
        "does not contain the subject"
    )


def test_frames_are_sampled_by_frequency_and_survive_json() -> None:
    met = {"Nobody knows \0 but": 1, "\0 comes from": 50}
    frames = Frames.of_json(Frames({"\0 is from": met}).to_json())
    assert frames == Frames({"\0 is from": met})
    drawn = Counter(
        frames.rephrases("Lyon is from", "Lyon", 1, random.Random(n))[0] for n in range(200)
    )
    assert drawn["Lyon comes from"] > 180
    assert len(frames.rephrases("Lyon is from", "Lyon", 5, random.Random(0))) == 2
    for broken in ("[]", '{"a": {"b": 0}}', '{"a": []}'):
        with pytest.raises(ValueError, match="frames"):
            Frames.of_json(broken)


def test_a_digression_asks_for_another_relation_of_the_subject() -> None:
    towns = examples_of_towns(8)
    sports = [
        replace(
            example, prompt=f"{example.subject} plays", target="chess",
            rephrases=(f"The game of {example.subject} is",),
        )
        for example in examples_of_towns(12)[8:]
    ]  # fmt: skip
    same = [replace(example, prompt=f"{example.subject} is from") for example in towns]
    digresser, rng = Digresser([*towns, *sports, *same]), random.Random(0)
    changed = [digresser.with_digression(towns[0], rng) for _ in range(40)]
    assert {example.locality for example in changed} == {
        (("Nokia0 plays", "Lyon"),),
        (("The game of Nokia0 is", "Lyon"),),
    }, "`is from` has the same targets: it may be the same relation"
    assert all(replace(e, locality=towns[0].locality) == towns[0] for e in changed)
    odd = replace(towns[0], prompt="Nobody met Nokia0 but")
    assert digresser.with_digression(odd, rng) == odd, "its relation occurs only once"
    sampler = BatchSampler([*towns, *sports], digressing=1.0)
    drawn = [sample for batch in sampler.epoch(4, rng) for sample in batch]
    in_order = sampler.first(20, random.Random(0))
    assert [sample.example.prompt for sample in in_order] == [e.prompt for e in [*towns, *sports]]
    for sample in (*drawn, *in_order):
        assert sample.example.subject in sample.locality[0]
        assert sample.locality[0] not in (sample.example.prompt, *sample.example.rephrases)
