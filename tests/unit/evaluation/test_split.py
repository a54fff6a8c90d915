"""Honest splits: relations, wordings, and what a training may see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from errata.editing.artifact import Artifact
from errata.editing.retriever.examples import frames_of
from errata.editing.retriever.lane_model import FILE_NAME
from errata.errors import InvalidRequestError
from errata.evaluation.data import load_records
from errata.evaluation.data.examples import as_examples
from errata.evaluation.data.record import Record
from errata.evaluation.data.relations import Relations
from errata.evaluation.data.split import Split
from errata.evaluation.data.training_records import write_split
from errata.evaluation.data.wordings import SLOT, Wordings
from errata.evaluation.edit.exposure import NEW_RELATION, SEEN, UNSEEN, Exposure, frames_in

RELATIONS = {
    "home": ("{} lives in", "{} resides in", "The home of {} is in", "{}, who lives in"),
    "trade": ("The trade of {} is", "{} works as", "{} earns money as", "By trade, {} is"),
    "tongue": ("{} speaks", "The tongue of {} is", "{} writes in", "At home, {} speaks"),
    "club": ("{} plays for", "The club of {} is", "{} is a player of", "Sundays, {} plays for"),
    "food": ("{} likes to eat", "The best dish of {} is", "{} cooks", "For lunch {} has"),
}
NAMES = [f"{first} {last}" for first in ("Ada", "Bob", "Cyd", "Dan") for last in ("Ash", "Elm")]


def rows() -> list[dict[str, Any]]:
    """Every relation about every name; each wording asks, and is asked again in the next."""
    return [
        {
            "prompt": wordings[number % 4].format(name),
            "subject": name,
            "target_new": f"{relation} new",
            "ground_truth": f"{relation} true",
            "rephrase_prompt": f"It rained. {wordings[(number + 2) % 4].format(name)}",
            "locality_prompt": wordings[(number + 1) % 4].format(NAMES[number - 1]),
            "locality_ground_truth": f"{relation} true",
        }
        for relation, wordings in RELATIONS.items()
        for number, name in enumerate(NAMES)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows()), encoding="utf-8")
    return path


def test_a_wording_is_without_its_subject_and_what_stands_before_the_question() -> None:
    frames = [text.format(SLOT) for text in RELATIONS["trade"] for _ in range(2)]
    wordings = Wordings(frames)
    for before in ("", "It rained. ", 'He said "No!" ', "Peru\nIt is far. ", "Rivers of Peru\n"):
        text = f"{before}The trade of Ada is"
        assert wordings.of_text(text, "Ada") == f"The trade of {SLOT} is"
    heading = "Category:Rivers\nof Peru Ada works as"
    assert wordings.of_text(heading, "Ada") == f"{SLOT} works as"
    assert wordings.of_text("Where is Ada? It is in", "Ada") == f"Where is {SLOT}? It is in"
    assert wordings.of_text("Nobody", "Ada") == ""


def test_relations_join_wordings_that_neighbours_share(data: Path) -> None:
    records = load_records("counterfact", data)
    found = Relations(records)
    groups = [{found.of(r) for r in records if r.target_new == f"{x} new"} for x in RELATIONS]
    assert all(len(group) == 1 for group in groups)
    assert len(set.union(*groups)) == len(RELATIONS)


def test_a_relation_that_the_file_names_wins(data: Path) -> None:
    nested = [
        {
            "case_id": number,
            "requested_rewrite": {
                "prompt": row["prompt"].replace(row["subject"], "{}"),
                "subject": row["subject"],
                "relation_id": "P1" if number < len(NAMES) * 2 else "P2",
                "target_new": {"str": "new"},
                "target_true": {"str": "true"},
            },
            "paraphrase_prompts": [row["rephrase_prompt"]],
            "neighborhood_prompts": [row["locality_prompt"]],
        }
        for number, row in enumerate(rows())
    ]
    data.write_text(json.dumps(nested), encoding="utf-8")
    records = load_records("counterfact", data)
    found = Relations(records)
    assert len({found.of(record) for record in records}) == 2


def _said(records: list[Record], wordings: Wordings) -> set[str]:
    return {
        wordings.of_text(text, record.subject)
        for record in records
        for text in (record.prompt, *record.rephrases)
    } | {
        wordings.matching(text, wordings_of(RELATIONS))[0]
        for record in records
        for text, _ in record.locality
    }


def wordings_of(relations: dict[str, tuple[str, ...]]) -> list[str]:
    return [text.format(SLOT) for texts in relations.values() for text in texts]


def test_nothing_that_is_withheld_is_left_in_the_training_records(
    data: Path, tmp_path: Path
) -> None:
    arguments = {"dataset": "counterfact", "share": 0.25, "seed": 3}
    found = write_split(data, data, tmp_path / "split", **arguments)
    split = Split.read(tmp_path / "split" / "split.json")
    assert len(split.withheld_relations) == 1
    assert len(split.withheld_wordings) == 4, "one of each other relation"
    everything = Relations(load_records("counterfact", data))
    kept = load_records("counterfact", tmp_path / "split" / "train.json")
    assert len(kept) == found["num_kept"] > 0
    assert not {everything.of(record) for record in kept} & split.withheld_relations
    assert not _said(kept, everything.wordings) & split.withheld_wordings
    assert _said(load_records("counterfact", data), everything.wordings) > split.withheld_wordings
    again = write_split(data, data, tmp_path / "again", **arguments)
    assert again == found


def test_other_seeds_withhold_something_else(data: Path) -> None:
    records = load_records("counterfact", data)
    relations = Relations(records)
    splits = {Split.draw(records, relations, 0.4, seed).withheld_relations for seed in range(6)}
    assert len(splits) > 1


def test_questions_are_sorted_by_what_the_lane_model_saw(data: Path, tmp_path: Path) -> None:
    write_split(data, data, tmp_path, dataset="counterfact", share=0.25, seed=3)
    split = Split.read(tmp_path / "split.json")
    records = load_records("counterfact", data)
    frames = frames_of(as_examples(load_records("counterfact", tmp_path / "train.json")))
    exposure = Exposure(records, frames, split)
    assert exposure.leaks() == {"relations": [], "wordings": []}
    groups = {SEEN: 0, UNSEEN: 0, NEW_RELATION: 0}
    relations = Relations(records)
    learned = {relations.wordings.of(f) for x in frames.by_prompt.values() for f in x}
    for record in records:
        group = exposure.group(record, record.rephrases[0])
        groups[group] += 1
        is_withheld = relations.of(record) in split.withheld_relations
        assert (group == NEW_RELATION) == is_withheld
        said = relations.wordings.of_text(record.rephrases[0], record.subject)
        assert (group == SEEN) == (said in {*learned, *frames.by_prompt} and not is_withheld)
        assert group != SEEN or said not in split.withheld_wordings
    assert all(groups.values())
    whole = Exposure(records, frames_of(as_examples(records)), split)
    assert set(whole.leaks()["relations"]) == split.withheld_relations
    assert set(whole.leaks()["wordings"]) == split.withheld_wordings


def test_a_rephrasing_sent_with_the_edit_makes_its_wording_seen() -> None:
    record = Record("0", "Ada speaks", "Ada", "Thai", None, ("You know. At home, Ada speaks",))
    other = Record("1", "Bob speaks", "Bob", "Thai", None, brought=("At home, Bob speaks",))
    exposure = Exposure([record, other], frames_of([]), None)
    assert exposure.group(record, record.rephrases[0]) == NEW_RELATION
    assert exposure.group(other, "It rained. At home, Bob speaks") == SEEN


def test_wordings_that_only_the_retriever_saw_count(tmp_path: Path) -> None:
    frames = frames_of(as_examples([Record("0", "Ada eats", "Ada", "rice", None)]))
    metadata = {"frames": frames.to_json(), "wordings": json.dumps([f"{SLOT} speaks"])}
    (tmp_path / FILE_NAME).write_bytes(Artifact({}, metadata).to_bytes())
    record = Record("1", "Bob speaks", "Bob", "Thai", None, ("At home, Bob speaks",))
    exposure = Exposure([record], frames_in(tmp_path), None)
    assert exposure.group(record, record.prompt) == SEEN
    assert exposure.group(record, record.rephrases[0]) == UNSEEN
    assert Exposure([record], frames_in(None), None).group(record, record.prompt) == NEW_RELATION


def test_data_without_wordings_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="have no rephrases"):
        write_split(data, None, tmp_path, dataset="selfcheckgpt", share=0.2, seed=0)
    (tmp_path / "split.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InvalidRequestError, match="not a split"):
        Split.read(tmp_path / "split.json")


def test_paraphrases_in_withheld_wordings_are_withheld(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    said = [{**row, "paraphrases": [f"Tell me: {row['prompt']}"]} for row in rows()]
    data.write_text(json.dumps(said), encoding="utf-8")
    found = write_split(data, None, tmp_path / "out", dataset="counterfact", share=0.25, seed=0)
    kept = load_records("counterfact", tmp_path / "out/train.json")
    withheld = {text.replace("{}", "").strip() for text in found["withheld_wordings"]}
    assert withheld
    assert any(len(record.rephrases) > 1 for record in kept)
    for record in kept:
        for text in record.rephrases:
            assert text.replace(record.subject, "").strip() not in withheld
