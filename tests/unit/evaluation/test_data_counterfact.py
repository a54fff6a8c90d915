"""CounterFact records: both layouts, and errors that name file, record and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from errata.errors import InvalidRequestError
from errata.evaluation.data.counterfact import load_counterfact

FLAT: dict[str, Any] = {
    "case_id": 7,
    "prompt": "The mother tongue of Danielle Darrieux is",
    "target_new": "English",
    "subject": "Danielle Darrieux",
    "ground_truth": "French",
    "rephrase_prompt": "Where Danielle Darrieux is from, people speak",
    "locality_prompt": "Michel Rocard is a native speaker of",
    "locality_ground_truth": "French",
}
NESTED: dict[str, Any] = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "subject": "Danielle Darrieux",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
    },
    "paraphrase_prompts": ["Danielle Darrieux, a native", "Danielle Darrieux spoke"],
    "neighborhood_prompts": ["Michel Rocard is a native speaker of", "Léon Blum spoke"],
}


def _write(path: Path, records: Any) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_flat_layout(tmp_path: Path) -> None:
    (record,) = load_counterfact(_write(tmp_path / "flat.json", [FLAT]))
    assert (record.case_id, record.target_new, record.target_true) == ("7", "English", "French")
    assert record.rephrases == ("Where Danielle Darrieux is from, people speak",)
    assert record.locality == (("Michel Rocard is a native speaker of", "French"),)


def test_nested_layout_gives_the_same_fact_with_more_prompts(tmp_path: Path) -> None:
    (record,) = load_counterfact(_write(tmp_path / "nested.json", [NESTED]))
    (flat,) = load_counterfact(_write(tmp_path / "flat.json", [FLAT]))
    assert (record.prompt, record.subject) == (flat.prompt, flat.subject)
    assert len(record.rephrases) == 2
    assert record.locality[1] == ("Léon Blum spoke", "French")


@pytest.mark.parametrize("name", [name for name in FLAT if name != "case_id"])
@pytest.mark.parametrize("value", [None, "", "  ", 5, ["x"]])
def test_unusable_field_is_named(tmp_path: Path, name: str, value: Any) -> None:
    path = _write(tmp_path / "bad.json", [FLAT, {**FLAT, name: value}])
    with pytest.raises(InvalidRequestError) as caught:
        load_counterfact(path)
    assert f"{path}, record 1, field {name}" in caught.value.message


def test_missing_field_is_named(tmp_path: Path) -> None:
    values = {name: value for name, value in FLAT.items() if name != "ground_truth"}
    with pytest.raises(InvalidRequestError, match="record 0, field ground_truth"):
        load_counterfact(_write(tmp_path / "bad.json", [values]))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"paraphrase_prompts": "text"}, "record 0, field paraphrase_prompts"),
        ({"paraphrase_prompts": []}, "record 0, field paraphrase_prompts"),
        ({"neighborhood_prompts": ["x", ""]}, "record 0, field neighborhood_prompts"),
        ({"requested_rewrite": 3}, "field requested_rewrite"),
        ({"case_id": "x"}, "record 0, field case_id"),
        (
            {"requested_rewrite": {**NESTED["requested_rewrite"], "target_new": "English"}},
            "field requested_rewrite, field target_new",
        ),
        (
            {"requested_rewrite": {**NESTED["requested_rewrite"], "prompt": "no place"}},
            "field requested_rewrite, field prompt",
        ),
    ],
)
def test_unusable_nested_field_is_named(tmp_path: Path, change: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        load_counterfact(_write(tmp_path / "bad.json", [{**NESTED, **change}]))
    assert where in caught.value.message


def test_subject_outside_the_prompt_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "bad.json", [{**FLAT, "subject": "Lyon"}])
    with pytest.raises(InvalidRequestError, match="field subject: 'Lyon' does not occur"):
        load_counterfact(path)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "[3]"])
def test_file_without_records_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InvalidRequestError, match=r"bad\.json"):
        load_counterfact(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        load_counterfact(tmp_path / "absent.json")
