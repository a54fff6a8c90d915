"""Evaluation records about the facts that SmolLM2 knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tools.known_records import known_facts, records

from errata.demo import says
from errata.evaluation.data import load_records


@pytest.mark.parametrize("questions", [False, True])
def test_every_known_fact_gives_a_record(tmp_path: Path, questions: bool) -> None:
    path = tmp_path / "known.json"
    path.write_text(json.dumps(list(records(questions=questions))), encoding="utf-8")
    loaded = load_records("counterfact", path)
    listed, others = known_facts()
    known = {fact.texts[0]: fact for fact in listed}
    unedited = {text: fact for fact in others for text in (*fact.texts, *fact.questions)}
    assert {record.prompt for record in loaded} == set(known)
    assert len(loaded) == len(known) > 70
    kind = "questions" if questions else "texts"
    for record in loaded:
        fact = known[record.prompt]
        assert (record.subject, record.target_true) == (fact.subject, fact.answer)
        assert record.target_new in fact.others
        assert not says(record.target_new, fact.answer), "else the old answer would be the new one"
        (rephrase,) = record.rephrases
        assert rephrase in getattr(fact, kind)
        assert rephrase != record.prompt
        ((near, answer),) = record.locality
        beside = unedited[near]
        assert near in getattr(beside, kind)
        assert beside.relation == fact.relation
        assert beside.answer == answer != record.target_new


def test_a_fact_counts_as_known_only_in_its_own_relation() -> None:
    known, others = ({(fact.relation, fact.subject) for fact in part} for part in known_facts())
    assert ("continent", "Poland") in known
    assert ("capital", "Poland") in others
