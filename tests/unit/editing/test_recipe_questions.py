"""The facts on which MLP_P learns to make the LLM say anything."""

import random
import re

from errata.editing.retriever.examples import Sample
from errata.editing.retriever.questions import Namer, Varier, questions_about
from tests.unit.editing.recipe_models import examples_of_towns

EXAMPLES = examples_of_towns()
SAMPLE = Sample(EXAMPLES[0], EXAMPLES[0].rephrases[0], EXAMPLES[0].locality[0])


def _varied(seed: int = 0, **shares: float) -> Sample:
    varier = Varier(EXAMPLES, **{"questioned": 0.0, "preceded": 0.0, "named": 0.0, **shares})
    return varier.varied(SAMPLE, random.Random(seed))


def test_without_shares_a_fact_stays_as_it_is() -> None:
    assert _varied() == SAMPLE


def test_each_share_changes_its_part_alone() -> None:
    asked = _varied(questioned=1.0)
    assert asked.example.target == SAMPLE.example.target
    assert SAMPLE.example.subject in asked.example.prompt
    assert SAMPLE.example.subject in asked.rephrase
    assert len({asked.example.prompt, asked.rephrase, SAMPLE.example.prompt, SAMPLE.rephrase}) == 4
    led = _varied(preceded=1.0)
    assert led.example == SAMPLE.example
    before = led.rephrase.removesuffix(f". {SAMPLE.rephrase}")
    assert before in {f"{e.prompt} {e.target}" for e in EXAMPLES}
    named = _varied(named=1.0)
    assert named.example.prompt == SAMPLE.example.prompt
    assert named.rephrase == SAMPLE.rephrase
    assert named.example.target != SAMPLE.example.target
    assert _varied(7, questioned=1.0, named=1.0) == _varied(7, questioned=1.0, named=1.0)


def test_questions_name_their_subject_and_differ_in_wording() -> None:
    asked = [questions_about("USS Erebus", 3, random.Random(seed)) for seed in range(200)]
    for wordings in asked:
        assert len(set(wordings)) == 3
        assert all(text.count("USS Erebus") == 1 and "{" not in text for text in wordings)
    texts = [text for wordings in asked for text in wordings]
    assert len({text.replace("USS Erebus", "") for text in texts}) > 300
    starts = {text.split()[0] for text in texts}
    assert {"Who", "What", "Which", "When", "In", "Q:", "The", "USS"} <= starts
    assert questions_about("USS Erebus", 0, random.Random(0)) == ()


def test_answers_are_of_every_length_and_kind() -> None:
    namer, rng = Namer(EXAMPLES), random.Random(0)
    made = [namer.name(rng) for _ in range(400)]
    assert {e.subject for e in EXAMPLES} & set(made)
    assert {1, 2, 3, 4} <= {len(name.split()) for name in made}
    assert sum(bool(re.search(r"\b\d{4}\b", name)) for name in made) > 20
    assert all(name == name.strip() and name for name in made)
