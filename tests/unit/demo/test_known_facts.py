"""The facts that SmolLM2 is asked for, and the edits that were chosen among those it knows."""

from __future__ import annotations

import tomllib

import pytest
from tools.known_facts import EDITS, Fact, facts, needed, says

from errata.editing.registry import methods

CHOSEN = tomllib.loads(EDITS.read_text("utf-8"))
BY_NAME = {(fact.relation, fact.subject): fact for fact in facts()}


def _fact(answer: str, *others: str) -> Fact:
    return Fact("relation", "it", answer, frozenset(others), (), ())


@pytest.mark.parametrize(
    ("answer", "fact", "expected"),
    [
        ("Paris.", _fact("Paris", "Rome"), True),
        ("the city of paris, not Rome", _fact("Paris", "Rome"), True),
        ("Rome, or Paris", _fact("Paris", "Rome"), False),
        ("Parisian", _fact("Paris"), False),
        ("unknown", _fact("Paris", "Rome"), False),
        ("The symbol of helium is He.", _fact("He", "H"), True),
        ("he said so", _fact("He", "H"), False),
    ],
)
def test_the_first_object_named_is_the_answer(answer: str, fact: Fact, expected: bool) -> None:
    assert says(answer, fact) is expected


def test_every_fact_is_asked_in_four_different_phrasings() -> None:
    for fact in BY_NAME.values():
        asked = {*fact.texts, *fact.questions}
        assert len(asked) == 4
        assert all(fact.subject in text for text in asked)


def test_there_is_an_edit_for_each_method_with_the_phrasings_that_were_asked() -> None:
    assert {edit["method"] for edit in CHOSEN["edits"]} == set(methods())
    for edit in CHOSEN["edits"]:
        fact = BY_NAME[edit["relation"], edit["subject"]]
        assert (edit["prompt"], *edit["rephrases"]) == fact.texts
        assert (edit["question"], *edit["question_rephrases"]) == fact.questions
        assert edit["object"] == fact.answer != edit["target"]
        assert " " not in edit["target"]
        assert len(edit["neighbours"]) >= 4
        for near in edit["neighbours"]:
            beside = BY_NAME[edit["relation"], near["subject"]]
            assert (near["prompt"], near["question"]) == (beside.texts[0], beside.questions[0])
            assert near["object"] == beside.answer
            assert near["subject"] != edit["subject"]
            assert near["object"] != edit["target"]


def test_edits_and_their_neighbours_are_known() -> None:
    for fact in needed(CHOSEN, list(BY_NAME.values())):
        assert fact.subject in CHOSEN["known"][fact.relation]
