"""ZsRE, SelfCheckGPT, RippleEdits, questions and references: records, and errors with places."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from errata.errors import InvalidRequestError
from errata.evaluation.data import LOADERS, load_records
from errata.evaluation.data.general import GeneralQuestion, load_general, name_of
from errata.evaluation.data.record import RippleQuestion, RippleTest
from errata.evaluation.data.references import load_references

ZSRE: dict[str, Any] = {
    "src": "Who built the Nord Mill?",
    "alt": "Ada Holm",
    "subject": "Nord Mill",
    "rephrase": "By whom was the Nord Mill built?",
    "loc": "nq question: who wrote the anthem",
    "loc_ans": "Per Lund",
}
SELFCHECK: dict[str, Any] = {
    "prompt": "ada holm was a miller. Ada Holm lived in Narvik.",
    "target_new": "She built two mills.",
    "subject": "ADA HOLM",
    "locality_prompt": "The river runs",
    "locality_ground_truth": "to the sea.",
}


def _query(
    prompt: str,
    *answers: str,
    relation: str = "FATHER",
    kind: str = "regular",
    subject: str = "Q1",
) -> Any:
    values = [{"value": answer, "aliases": [answer.upper()]} for answer in answers]
    return {
        "prompt": prompt,
        "answers": values,
        "query_type": kind,
        "subject_id": subject,
        "relation": relation,
    }


def _test(*queries: Any) -> Any:
    return {"test_queries": list(queries), "test_condition": "OR", "condition_queries": []}


RIPPLE: dict[str, Any] = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the mother of Ada Holm is Anne Berg.",
        "subject_id": "Q1",
        "relation": "MOTHER",
        "original_fact": {"prompt": "The name of the mother of Ada Holm is Eva Dahl."},
    },
    "Relation_Specificity": [_test(_query("The name of the father of Ada Holm is", "Nils Holm"))],
    "Logical_Generalization": [
        _test(_query("The name of the child of Anne Berg is", "Ada Holm", subject="Q2"))
    ],
    "Subject_Aliasing": [
        _test(_query("The name of the mother of A. Holm is", "Anne Berg", relation="MOTHER"))
    ],
    "Compositionality_I": [
        _test(_query("The home of the mother of Ada Holm is", "Oslo", kind="two_hop"))
    ],
    "Compositionality_II": [],
    "Forgetfulness": [
        _test(
            {
                **_query("The name of the mother of Ada Holm, which is not Anne Berg, is"),
                "relation": "MOTHER",
                "answers": [{"value": None, "aliases": []}],
            },
            _query("The name of the mother of Eva Holm is", "Ida Vik", subject="Q3"),
        )
    ],
}


def _file(folder: Path, records: Any) -> Path:
    path = folder / "data.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def _lines(folder: Path, *records: Any) -> Path:
    path = folder / "lines.jsonl"
    path.write_text("\n\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return path


def test_zsre(tmp_path: Path) -> None:
    with_old = {**ZSRE, "answers": ["Olav Moe"], "case_id": 9}
    first, second = load_records("zsre", _file(tmp_path, [ZSRE, with_old]))
    assert (first.prompt, first.target_new, first.target_true) == (ZSRE["src"], "Ada Holm", None)
    assert first.rephrases == (ZSRE["rephrase"],)
    assert first.locality == (("nq question: who wrote the anthem", "Per Lund"),)
    assert (first.case_id, second.case_id) == ("0", "9")
    assert second.target_true is None, "its figures are those without true answers"


def test_selfcheckgpt_spells_the_subject_as_in_its_last_occurrence(tmp_path: Path) -> None:
    blank = {**SELFCHECK, "locality_ground_truth": " "}
    first, second = load_records("selfcheckgpt", _file(tmp_path, [SELFCHECK, blank]))
    assert first.subject == "Ada Holm"
    assert first.locality == (("The river runs", "to the sea."),)
    assert second.locality == ()
    assert first.rephrases == ()


def test_ripple_edits(tmp_path: Path) -> None:
    recent = copy.deepcopy(RIPPLE)
    recent["example_type"] = "recent"
    del recent["edit"]["original_fact"]
    first, second = load_records("rippleedits", _file(tmp_path, [RIPPLE, recent]))
    assert first.prompt == "The name of the mother of Ada Holm is"
    assert (first.target_new, first.target_true) == ("Anne Berg", None)
    assert first.subject == "Ada Holm"
    assert first.rephrases == ("The name of the mother of A. Holm is",)
    assert first.locality == (
        ("The name of the father of Ada Holm is", "Nils Holm"),
        ("The name of the mother of Eva Holm is", "Ida Vik"),
    )
    child = RippleQuestion("The name of the child of Anne Berg is", ("Ada Holm", "ADA HOLM"))
    assert first.ripples["Logical_Generalization"] == (RippleTest((child,)),)
    assert "Compositionality_II" not in first.ripples, "there is nothing to ask"
    (test,) = first.ripples["Forgetfulness"]
    assert len(test.questions) == 1, "a question without an answer is left out"
    assert second.ripples == first.ripples


@pytest.mark.parametrize(
    ("sentence", "other", "subject"),
    [
        (
            "The name of the father of Ada of Oslo is Per.",
            "The gender of Ada of Oslo is",
            "Ada of Oslo",
        ),
        (
            "The name of the country which Ada Holm is associated with is Chad.",
            "The mother tongue of Ada Holm is",
            "Ada Holm",
        ),
        ("The capital of Norway is Bergen.", "Something else is", "Norway"),
    ],
)
def test_ripple_subject_also_occurs_in_other_questions(
    tmp_path: Path, sentence: str, other: str, subject: str
) -> None:
    record = {**RIPPLE, "Subject_Aliasing": [], "Forgetfulness": []}
    record["edit"] = {"prompt": sentence, "subject_id": "Q1", "relation": "MOTHER"}
    record["Relation_Specificity"] = [_test(_query(other, "x"))]
    (found,) = load_records("rippleedits", _file(tmp_path, [record]))
    assert found.subject == subject


def test_ripple_target_can_contain_a_verb_if_aliasing_confirms_it(tmp_path: Path) -> None:
    record = copy.deepcopy(RIPPLE)
    record["edit"]["prompt"] = "The name of the mother of Ada Holm is What Is Is."
    record["Subject_Aliasing"][0]["test_queries"][0]["answers"][0]["value"] = "What Is Is"
    (found,) = load_records("rippleedits", _file(tmp_path, [record]))
    assert found.target_new == "What Is Is"
    assert found.prompt == "The name of the mother of Ada Holm is"


@pytest.mark.parametrize(
    ("dataset", "record", "field"),
    [
        ("zsre", {**ZSRE, "alt": ""}, "field alt"),
        ("zsre", {**ZSRE, "rephrase": 3}, "field rephrase"),
        ("zsre", {**ZSRE, "subject": "Mill of Nord"}, "field subject"),
        ("zsre", {key: ZSRE[key] for key in ZSRE if key != "loc"}, "field loc"),
        ("selfcheckgpt", {**SELFCHECK, "target_new": None}, "field target_new"),
        ("selfcheckgpt", {**SELFCHECK, "subject": "Ida"}, "field subject"),
        ("selfcheckgpt", {**SELFCHECK, "locality_ground_truth": 1}, "field locality_ground_truth"),
        ("rippleedits", {**RIPPLE, "example_type": "old"}, "field example_type"),
        ("rippleedits", {**RIPPLE, "edit": {**RIPPLE["edit"], "prompt": "Anne."}}, "field prompt"),
        ("rippleedits", {**RIPPLE, "Forgetfulness": {}}, "field Forgetfulness"),
        (
            "rippleedits",
            {**RIPPLE, "Forgetfulness": [{"test_queries": [{"prompt": "x"}]}]},
            "field Forgetfulness[0], field test_queries[0], field answers",
        ),
    ],
)
def test_an_unusable_field_is_named(
    tmp_path: Path, dataset: str, record: dict[str, Any], field: str
) -> None:
    good = {"zsre": ZSRE, "selfcheckgpt": SELFCHECK, "rippleedits": RIPPLE}[dataset]
    path = _file(tmp_path, [good, record])
    with pytest.raises(InvalidRequestError) as caught:
        load_records(dataset, path)
    assert f"{path}, record 1" in caught.value.message
    assert field in caught.value.message


@pytest.mark.parametrize("dataset", sorted(LOADERS))
def test_another_data_sets_file_is_refused(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(InvalidRequestError, match="record 0"):
        load_records(dataset, _file(tmp_path, [{"question": "x"}]))


def test_texts_are_normalised_as_in_the_services(tmp_path: Path) -> None:
    decomposed = {**ZSRE, "alt": "Zu\u0308rich ", "rephrase": " Wo?"}
    (record,) = load_records("zsre", _file(tmp_path, [decomposed]))
    assert record.target_new == "Z\u00fcrich"
    assert record.rephrases == ("Wo?",)


def test_unknown_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="counterfact, rippleedits, selfcheckgpt, zsre"):
        load_records("mquake", tmp_path / "x")


def test_questions_of_both_kinds(tmp_path: Path) -> None:
    choice = {"question": "Water freezes at", "choices": ["0 °C", "50 °C"], "answer": 0}
    path = _lines(tmp_path, choice, {"question": "The capital is", "answer": "Oslo"})
    first, second = load_general(path)
    assert (first.choices, first.answer) == (("0 °C", "50 °C"), "0 °C")
    assert (second.choices, second.answer) == ((), "Oslo")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"answer": 2}, "field answer"),
        ({"answer": True}, "field answer"),
        ({"choices": ["a"]}, "field choices"),
        ({"choices": ["a", "a"]}, "field choices"),
        ({"question": ""}, "field question"),
        ({"choices": None}, "field answer"),
    ],
)
def test_an_unusable_question_is_named(tmp_path: Path, change: Any, field: str) -> None:
    good = {"question": "x", "choices": ["a", "b"], "answer": 1}
    with pytest.raises(InvalidRequestError, match=f"line 3, {field}"):
        load_general(_lines(tmp_path, good, {**good, **change}))


def _task(tmp_path: Path, task: Any) -> Path:
    path = tmp_path / "pets" / "task.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(task))
    return path


def test_a_task_of_big_bench_is_read_as_it_is(tmp_path: Path) -> None:
    one = {"input": "What barks?", "target_scores": {"a cat": 0, "a dog": 1}}
    tie = {"input": "What breathes?", "target_scores": {"a cat": 1, "a dog": 1}}
    path = _task(tmp_path, {"examples": [one, tie]})
    (question,) = load_general(path)
    assert question == GeneralQuestion("Q: What barks?\nA:", ("a cat", "a dog"), "a dog")
    assert name_of(path) == "pets"
    assert name_of(tmp_path / "trivia.jsonl") == "trivia"
    prefixes = {"example_input_prefix": "", "example_output_prefix": " Answer: "}
    (question,) = load_general(_task(tmp_path, {"examples": [one], **prefixes}))
    assert question.question == "What barks? Answer:"
    (question,) = load_general(_task(tmp_path, {"examples": [one], "task_prefix": "On pets."}))
    assert question.question == "On pets.\nQ: What barks?\nA:"


def test_a_task_is_named_by_its_folder_from_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(_task(tmp_path, {}).parent)
    assert name_of(Path("task.json")) == "pets"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ([], "is not a JSON object"),
        ({"name": "x"}, "field examples: must be a list"),
        ({"examples": []}, "single best answer"),
        ({"examples": [{"input": "x", "target": "y"}]}, "field target_scores"),
        ({"examples": [{"input": "x", "target_scores": {"a": "b"}}]}, "field a: must be a number"),
        ({"examples": [{"target_scores": {"a": 0, "b": 1}}]}, "field input"),
        ({"examples": [{"input": "x", "target_scores": {"a": 0, " a": 1}}]}, "name of its own"),
        ({"examples": [{"input": "x", "target_scores": {" ": 0, "b": 1}}]}, "name of its own"),
    ],
)
def test_a_task_that_cannot_be_used_says_why(tmp_path: Path, task: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        load_general(_task(tmp_path, task))


def test_lines_that_are_not_json_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "x", "answer": "y"}\n{')
    with pytest.raises(InvalidRequestError, match=r"bad\.jsonl, line 2: is not JSON"):
        load_general(path)
    path.write_text("\n")
    with pytest.raises(InvalidRequestError, match="no record"):
        load_general(path)


def test_references_are_grouped_by_target(tmp_path: Path) -> None:
    path = _lines(tmp_path, *({"target": t, "text": x} for t, x in ["ab", "cd", "ae"]))
    assert load_references(path) == {"a": ("b", "e"), "c": ("d",)}
    with pytest.raises(InvalidRequestError, match="line 1, field text"):
        load_references(_lines(tmp_path, {"target": "a"}))
