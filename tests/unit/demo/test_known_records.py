"""Evaluation records about the facts that a chat model knows."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from tools.known_facts import EDITS, Fact, facts
from tools.known_records import read_said, records

from errata.demo import says
from errata.evaluation.data import load_records

KNOWN = tomllib.loads(EDITS.read_text("utf-8"))["known"]
HALF = "ABCDEFGHIJKLM"


def _said(fact: Fact) -> list[bool]:
    """All of the known facts, the first text and question of some others."""
    if fact.subject in KNOWN.get(fact.relation, ()):
        return [True] * 4
    return [fact.subject[0].upper() in HALF, False] * 2


@pytest.fixture
def said(tmp_path: Path) -> Path:
    """As `tools/known_facts.py` writes it."""
    rows = [{"relation": f.relation, "subject": f.subject, "said": _said(f)} for f in facts()]
    path = tmp_path / "said.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("questions", [False, True])
def test_every_known_fact_gives_a_record(said: Path, questions: bool) -> None:
    path = said.with_name("known.json")
    path.write_text(json.dumps(list(records(read_said(said), 4, questions=questions))), "utf-8")
    loaded = load_records("counterfact", path)
    known = {fact.texts[0]: fact for fact in facts() if all(_said(fact))}
    others = [fact for fact in facts() if not all(_said(fact))]
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
        alike = [x for x in others if x.relation == fact.relation and x.answer != record.target_new]
        assert any(_said(beside)) or not any(any(_said(x)) for x in alike)


def test_fewer_phrasings_give_more_records(said: Path) -> None:
    counts = [len(list(records(read_said(said), n, questions=False))) for n in (4, 3, 2)]
    assert counts[0] == counts[1] < counts[2]
