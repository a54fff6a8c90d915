"""Files of corrections in every format, and what is refused of them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from errata.bulk import exporter
from errata.bulk.columns import Columns
from errata.bulk.files import read_corrections
from errata.bulk.row import Row, conflicts, last_of_each, with_canary, with_namespace
from errata.errors import InvalidRequestError
from errata_client import Edit, EditSpec, EditState, Figures

SPECS = [
    EditSpec("The capital of France is", "Lyon", "France", ("France's capital:",), ("Oslo is",)),
    EditSpec("Die Hauptstadt, „Österreichs“, ist", "Graz", source='a "b"\nc'),
]
RECORDS: list[dict[str, Any]] = [
    {
        "prompt": spec.prompt,
        "target": spec.target,
        "subject": spec.subject,
        "rephrases": list(spec.rephrases),
        "locality_probes": list(spec.locality_probes),
        "source": spec.source,
    }
    for spec in SPECS
]
PLAIN = Columns({})


def _write(folder: Path, kind: str) -> Path:
    path = folder / f"edits.{kind}"
    match kind:
        case "jsonl":
            path.write_text("\n".join(json.dumps(record) for record in RECORDS))
        case "json":
            path.write_text(json.dumps(RECORDS))
        case "parquet":
            parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)
        case _:
            comma = "," if kind == "csv" else "\t"
            path.write_text(_table(comma), encoding="utf-8-sig")
    return path


def _table(comma: str) -> str:
    def cell(value: object) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return '"' + text.replace('"', '""') + '"'

    lines = [comma.join(RECORDS[0])]
    lines += [comma.join(map(cell, record.values())) for record in RECORDS]
    return "\r\n".join([*lines, ""])


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_each_format_gives_the_same_corrections(tmp_path: Path, kind: str) -> None:
    found = read_corrections(_write(tmp_path, kind), PLAIN)
    assert [row.spec for row in found.rows] == SPECS
    assert [row.number for row in found.rows] == [1, 2]


def test_data_sets_are_known_by_their_first_record(tmp_path: Path) -> None:
    flat = {
        "prompt": "Lyon is in",
        "subject": "Lyon",
        "target_new": "Spain",
        "ground_truth": "France",
        "rephrase_prompt": "Where is Lyon? In",
        "locality_prompt": "Oslo is in",
        "locality_ground_truth": "Norway",
    }
    zsre = {
        "src": "Who made Pong?",
        "alt": "Sega",
        "subject": "Pong",
        "rephrase": "Pong is by",
        "loc": "who made it",
        "loc_ans": "nobody",
    }
    for record, target in ((flat, "Spain"), (zsre, "Sega")):
        path = tmp_path / "data.json"
        path.write_text(json.dumps([record]))
        (row,) = read_corrections(path, PLAIN).rows
        assert (row.spec.target, len(row.spec.rephrases), len(row.spec.locality_probes)) == (
            target,
            1,
            1,
        )


def test_columns_are_mapped_and_others_are_refused_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "edits.csv"
    path.write_text("question,answer,ticket\nLyon is in,Spain,7\n")
    with pytest.raises(InvalidRequestError, match="no column 'prompt' for prompt; it has"):
        read_corrections(path, PLAIN)
    named = {"prompt": "question", "target": "answer"}
    with pytest.raises(InvalidRequestError, match="columns that are no field: 'ticket'"):
        read_corrections(path, Columns(named))
    (row,) = read_corrections(path, Columns(named, ignore_others=True)).rows
    assert row.spec == EditSpec("Lyon is in", "Spain")
    assert row.spec.separator is None
    with pytest.raises(InvalidRequestError, match="no column 'x' for subject"):
        read_corrections(path, Columns({**named, "subject": "x"}, ignore_others=True))
    with pytest.raises(InvalidRequestError, match="no field 'answer'"):
        Columns({"answer": "target"})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "prompt,target\nGen\u00e8ve is in,France\n".encode("cp1252"), "line 2: byte 17"),
        ("a.csv", b"", "no header"),
        ("a.csv", b"prompt,target\n", "no rows"),
        ("a.csv", b"prompt,prompt\na,b\n", "two columns have the same name"),
        ("a.csv", b"prompt,target\na,b,c\n", "line 2: 3 cells for 2 columns"),
        ("a.csv", b'prompt,target\n"a,b\n', "unexpected end"),
        ("a.jsonl", b'{"prompt": "a"\n', "line 1: not JSON"),
        ("a.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("a.json", b"{}", "not a JSON array"),
        ("a.json", b"[" * 200_000, "not JSON"),
        ("a.parquet", b"PAR1", "not a Parquet file"),
        ("a.xlsx", b"PK", "format of a.xlsx is not known"),
    ],
)
def test_files_that_cannot_be_read_say_where_and_why(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=said):
        read_corrections(path, PLAIN)


def test_another_encoding_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("prompt,target\nGen\u00e8ve is in,France\n".encode("cp1252"))
    (row,) = read_corrections(path, PLAIN, encoding="cp1252").rows
    assert row.spec.prompt == "Gen\u00e8ve is in"
    with pytest.raises(InvalidRequestError, match="no encoding 'latin-99'"):
        read_corrections(path, PLAIN, encoding="latin-99")
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        read_corrections(tmp_path / "none.csv", PLAIN)


def test_rows_that_are_no_corrections_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records: list[dict[str, Any]] = [
        {"prompt": " ", "target": "b"},
        {"prompt": "a", "target": 1984},
        {"prompt": "a", "target": "b", "subject": "c"},
        {"prompt": "a", "target": ["b"]},
        {"prompt": "a", "target": "b", "rephrases": [1]},
        {"prompt": "a", "target": "b", "rephrases": "[broken"},
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    found = read_corrections(path, PLAIN)
    assert [row.spec.target for row in found.rows] == ["1984"]
    assert [problem.split(":")[0] for problem in found.problems] == [
        f"row {number}" for number in (1, 3, 4, 5, 6)
    ]


def _row(number: int, prompt: str, target: str) -> Row:
    return Row(number, EditSpec(prompt, target))


def test_rows_that_contradict_one_another_are_found() -> None:
    rows = [
        _row(1, "Lyon is in", "Spain"),
        _row(2, "lyon  is in", "Peru"),
        _row(3, "Oslo is in", "Chad"),
        _row(4, "Oslo is in", "Chad "),
        _row(5, "Lyon is in", "Peru"),
    ]
    (found,) = conflicts(rows)
    assert found.rows == ((1, "Spain"), (2, "Peru"), (5, "Peru"))
    assert [row.number for row in last_of_each(rows)] == [2, 3, 4, 5]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(TEXTS, TEXTS, st.lists(TEXTS, max_size=2), st.sampled_from([None, "", " "]))
@pytest.mark.parametrize("kind", exporter.FORMATS)
def test_what_is_exported_can_be_imported(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    prompt: str,
    target: str,
    rephrases: list[str],
    separator: str | None,
) -> None:
    path = tmp_path_factory.mktemp("export") / f"edits.{kind}"
    # In a table, nothing and an empty text are the same.
    kept = None if kind == "csv" and not separator else separator
    spec = EditSpec(
        prompt,
        target,
        rephrases=tuple(rephrases),
        source="s",
        separator=kept,
        namespace="n",
        canary="canaries/july",
    )
    figures = Figures(1.0, None, 0.5, False)
    edit = Edit(
        name="edits/3-0",
        state=EditState.COMMITTED,
        spec=spec,
        lane="lanes/a",
        author="ada",
        request_time=datetime.now(UTC),
        commit_seq=4,
        revert_seq=0,
        figures=figures,
        artifact_digest="d",
        artifact_size=1,
        method="adaple",
        base_model_digest="b",
        error="",
        superseded_by="",
    )
    assert exporter.export([edit], path, kind) == 1
    found = read_corrections(path, PLAIN)
    assert [row.spec for row in found.rows] == [spec]
    assert exporter.flat(edit)["locality"] == 0.5


def test_an_export_that_fails_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    def edits() -> Any:
        raise InvalidRequestError("lost")
        yield

    path = tmp_path / "edits.jsonl"
    path.write_text("before")
    with pytest.raises(InvalidRequestError, match="lost"):
        exporter.export(edits(), path, "jsonl")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]
    with pytest.raises(InvalidRequestError, match="cannot be written"):
        exporter.export([], tmp_path / "none" / "edits.csv", "csv")


def test_a_namespace_is_a_part_of_a_corrections_content() -> None:
    plain = EditSpec("Toyota makes", "football")
    known = Row(1, plain).request_id("", "ada")
    placed = [replace(plain, namespace=name) for name in ("default", "team-a", "team-b")]
    rows = [Row(n, spec) for n, spec in enumerate([plain, *placed], 1)]
    ids = [row.request_id("", "ada") for row in rows]
    assert ids[1] == known, "the default namespace, named or not, is what it was"
    assert len(set(ids)) == 3
    targets = [replace(row, spec=replace(row.spec, target=f"{row.number}")) for row in rows]
    (found,) = conflicts(targets)
    assert [number for number, _ in found.rows] == [1, 2], "other namespaces contradict nothing"
    given = [row.spec.namespace for row in with_namespace(rows, "team-c")]
    assert given == ["team-c", "default", "team-a", "team-b"]


def test_a_canary_is_a_part_of_a_corrections_content(tmp_path: Path) -> None:
    path = tmp_path / "edits.csv"
    path.write_text("prompt,target,canary\nToyota makes,a,\nToyota makes,b,july\n")
    rows = read_corrections(path, PLAIN).rows
    assert [row.spec.canary for row in rows] == ["", "canaries/july"], "with or without canaries/"
    assert not conflicts(rows), "a trial of another answer contradicts nothing"
    ids = [Row(1, replace(row.spec, target="a")).request_id("", "ada") for row in rows]
    assert ids[0] == Row(1, EditSpec("Toyota makes", "a")).request_id("", "ada")
    assert len(set(ids)) == 2
    given = [row.spec.canary for row in with_canary(rows, "canaries/may")]
    assert given == ["canaries/may", "canaries/july"]


def test_request_ids_follow_from_the_content() -> None:
    row = Row(1, SPECS[0])
    assert row.request_id("", "ada") == Row(9, SPECS[0]).request_id("", "ada")
    others = {Row(1, SPECS[1]).request_id("", "ada"), row.request_id("lanes/a", "ada")}
    others |= {row.request_id("", "bob"), row.request_id("", "ada")}
    assert len(others) == 4
