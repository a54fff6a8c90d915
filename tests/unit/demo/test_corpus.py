"""The demo data is well formed, and its text depends only on the seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from errata.demo import Corpus, load_corpus, prompts
from errata.errors import InvalidInputError

FACTS = """
sentences = ["{subject} is a country."]

[relations.capital]
follow_up = "Its capital is {object}."
phrasings = [
  "The capital of {subject} is {object}.",
  "{subject}'s capital is {object}.",
  "In {subject}, the capital is {object}.",
]

[subjects]
France = { capital = "Paris" }
Germany = { capital = "Berlin" }
"""
EDITS = """
[[edits]]
subject = "France"
relation = "capital"
target = "Berlin"
neighbours = ["Germany"]
"""


def write_data(root: Path, *, facts: str = FACTS, edits: str = EDITS) -> Path:
    """Writes a data folder and returns it."""
    (root / "facts").mkdir()
    (root / "facts" / "country.toml").write_text(facts)
    (root / "filler.toml").write_text('sentences = ["It rained."]')
    (root / "edits.toml").write_text(edits)
    return root


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """The package's own data."""
    return load_corpus()


def test_facts_are_many_and_unique(corpus: Corpus) -> None:
    facts = corpus.facts()
    assert len(facts) >= 500
    assert len(corpus.relations()) >= 10
    assert len({(fact.subject, fact.relation) for fact in facts}) == len(facts)


def test_training_text_depends_on_the_seed_alone(corpus: Corpus) -> None:
    text = corpus.training_text(seed=3, num_paragraphs=50)
    assert text == load_corpus().training_text(seed=3, num_paragraphs=50)
    assert text != corpus.training_text(seed=4, num_paragraphs=50)
    assert text[:10] == corpus.training_text(seed=3, num_paragraphs=10)


def test_every_prompt_contains_its_subject_and_not_its_object(corpus: Corpus) -> None:
    relations = corpus.relations()
    for fact in corpus.facts():
        for prompt in prompts(relations[fact.relation], fact.subject):
            assert fact.subject in prompt
            assert prompt == prompt.strip()


def test_demo_edits_contradict_facts_and_have_probes(corpus: Corpus) -> None:
    edits = corpus.demo_edits()
    assert 6 <= len(edits) <= 12
    for edit in edits:
        assert edit.subject in edit.prompt
        assert all(edit.subject in rephrase for rephrase in edit.rephrases)
        assert len(edit.rephrases) >= 3
        assert len(edit.neighbours) >= 3
        assert all(edit.subject not in probe.prompt for probe in edit.neighbours)
    assert any(edit.same_subject for edit in edits)


def test_a_good_data_folder_loads(tmp_path: Path) -> None:
    assert len(load_corpus(write_data(tmp_path)).facts()) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[subjects]", "[subjects", "country.toml"),
        ("{object}.", "{object}", "must end with"),
        ("In {subject}, the", "There the", "must name {subject} once"),
        ('{ capital = "Paris" }', '{ capitol = "Paris" }', "unknown relation 'capitol'"),
        ('{ capital = "Paris" }', "{}", "'France' has no fact"),
        ('"Paris"', '" Paris"', "is empty or unclean"),
        ('"Paris"', "7", "valid string"),
        ("[relations.capital]", "colour = 1\n[relations.capital]", "colour"),
    ],
)
def test_the_error_for_a_bad_facts_file_names_the_file_and_the_fault(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in FACTS
    root = write_data(tmp_path, facts=FACTS.replace(old, new))
    with pytest.raises(InvalidInputError, match=r"country\.toml") as caught:
        load_corpus(root)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('["Germany"]', '["Utopia"]', "no fact capital of 'Utopia'"),
        ('"Berlin"', '"Paris"', "'Paris' must occur in a fact other than the edited one"),
        ('"Berlin"', '"Atlantis"', "'Atlantis' must occur"),
    ],
)
def test_an_edit_without_a_matching_fact_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    root = write_data(tmp_path, edits=EDITS.replace(old, new))
    with pytest.raises(InvalidInputError, match=r"edits\.toml") as caught:
        load_corpus(root)
    assert message in caught.value.message


def test_a_fact_in_two_files_is_refused(tmp_path: Path) -> None:
    root = write_data(tmp_path)
    (root / "facts" / "more.toml").write_text(FACTS)
    with pytest.raises(InvalidInputError, match="'capital' is in two files"):
        load_corpus(root)
