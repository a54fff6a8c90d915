"""Published results: the committed pages are what the command makes, and how files become rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from errata.bench_cli import bench
from errata.errors import InvalidRequestError
from errata.evaluation.published.condense import MAX_BYTES, as_text, condensed
from errata.evaluation.published.pages import Pages

DOCS = Path(__file__).parents[3] / "docs"
TABLES = """
[table.main]
columns = [
    ["exact", "reliability.exact"], ["seen", "wording_seen.generality.exact"],
    ["lost", "forgetting:reliability.exact"], ["at 2", "score@2"], ["n", "edits"],
    ["ZsRE", "reliability.exact", "zsre"],
]
[table.short]
rows = "main"
columns = [["s/edit", "seconds"], ["CPU", "cpu_seconds"]]
[table.adaple-runs]
columns = [["before", "pre:locality.exact"], ["score as fitted", "fitted:score"]]
[paired.gap]
columns = [["exact", "reliability.exact"], ["score", "score"]]
[plot.curve]
title = "Curve"
axis = "Score"
figure = "score"
"""
PAGE = "# Page\n\n<!-- table main -->\nold\n<!-- end -->\n<!-- table short -->\n<!-- end -->\n"
REST = "<!-- paired gap -->\n<!-- end -->\n"
REST += "<!-- table adaple-runs -->\n<!-- end -->\n<!-- plot curve -->\n<!-- end -->\nthe end\n"


def figures(exact: float, score: float) -> dict[str, Any]:
    return {
        "reliability": {"exact": exact, "token": None},
        "locality": {"exact": 1.0},
        "score": score,
        "wording_seen": {"generality.exact": exact / 2, "efficacy": 0.0, "rephrases": 7.0},
    }


def result(exact: float = 0.5, edits: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    points = [
        {
            "label": f"{number} edits",
            "edits": number,
            "batch": 1,
            "edit_seconds_mean": 0.123456,
            "edit_cpu_seconds_mean": None if number == 1 else 0.234567,
            "state_bytes": 10 * number,
            "num_rejected": 0,
            "ci95_over": "seeds",
            "immediate": figures(exact + 0.25, 0.9),
            "final": figures(exact, number / 4),
            "ci95": {"reliability": {"exact": 0.01}},
            "checkpoints": [],
            "units": [{"records": {"ids": ["a secret"]}}],
        }
        for number in edits
    ]
    return {
        "method": "adaple",
        "dataset": "counterfact",
        "suite": "scaling",
        "commit": "c" * 40,
        "seeds": [0, 1],
        "data": {"records": [0, 9], "digest": "d" * 64},
        "model": {"digest": "e" * 64},
        "through": "in process",
        "environment": {"cores": 2, "load_average": 1.25, "torch": "2.0"},
        "pre": figures(0.0, 0.0),
        "points": points,
    }


def write_run(folder: Path, name: str, found: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    run = folder / name
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps(found), encoding="utf-8")
    (run / "command.txt").write_text("errata bench edit …\n", encoding="utf-8")
    if rows:
        (run / "row.json").write_text(json.dumps(rows), encoding="utf-8")
    return run


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "tables.toml").write_text(TABLES, encoding="utf-8")
    (folder / "results.md").write_text(PAGE, encoding="utf-8")
    (folder / "choosing.md").write_text("# Nothing\n", encoding="utf-8")
    (folder / "results" / "adaple.md").write_text(REST, encoding="utf-8")
    return folder


def call(*arguments: str | Path) -> None:
    done = CliRunner().invoke(bench, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_committed_pages_are_what_the_command_makes() -> None:
    pages = Pages(DOCS)
    for path in pages.paths:
        assert pages.made(path) == path.read_text(encoding="utf-8"), "run `errata bench report`"
    assert not pages.unused()
    assert all(picture.is_file() for picture in pages.pictures())
    for file in (DOCS / "results" / "data").rglob("*.json"):
        assert file.stat().st_size <= MAX_BYTES


def test_files_become_rows_with_their_commands(docs: Path, tmp_path: Path) -> None:
    main = [{"table": "main", "row": "B", "order": 2}, {"plot": "curve", "row": "B"}]
    runs = tmp_path / "runs"
    call("publish", write_run(runs, "adaple/b", result(), main), "--docs", docs)
    other = [{"table": "main", "row": "A", "order": 1, "points": 0}]
    call("publish", write_run(runs, "adaple/a", result(0.25), other), "--docs", docs)
    zsre = [{"table": "main", "row": "B", "order": 2, "slot": "zsre"}]
    call("publish", write_run(runs, "adaple/z", result(0.125), zsre), "--docs", docs)
    call("report", "--docs", docs)
    page = (docs / "results.md").read_text(encoding="utf-8")
    assert "| A | 0.250 ± 0.010 | 0.125 | 0.250 | 0.500 | 1 | – |" in page
    assert "| B | 0.500 ± 0.010 | 0.250 | 0.250 | 0.500 | 2 | 0.125 ± 0.010 |" in page
    assert page.index("| A |") < page.index("| B |")
    assert "| A | 0.123 | – |" in page, "another table can show the same rows"
    assert "| B | 0.123 | 0.235 |" in page
    assert "[adaple/z](results/data/adaple/z.json)" in page
    assert "errata bench edit …" in page
    assert "2 cores, load at the end 1.2, torch 2.0" in page, "seconds depend on it"
    assert "old" not in page
    assert (docs / "results" / "plots" / "curve.png").read_bytes().startswith(b"\x89PNG")
    own = (docs / "results" / "adaple.md").read_text(encoding="utf-8")
    assert "](plots/curve.png)" in own
    assert "No run has been published here yet." in own
    assert own.endswith("the end\n")
    call("report", "--docs", docs)
    assert (docs / "results.md").read_text(encoding="utf-8") == page


def test_a_run_without_a_place_is_a_row_of_its_methods_runs(docs: Path, tmp_path: Path) -> None:
    found = result()
    found["points"][0]["units"] = [
        {"fitted": figures(0.5, score) | {"state_bytes": 9}} for score in (0.5, 0.75)
    ]
    run = write_run(tmp_path, "adaple/new", found | {"suite": "compaction"}, [])
    call("publish", run, "--docs", docs)
    call("report", "--docs", docs)
    page = (docs / "results" / "adaple.md").read_text(encoding="utf-8")
    assert "| new | 1.000 | 0.625 |" in page
    published = json.loads((docs / "results" / "data" / "adaple" / "new.json").read_text())
    assert "state_bytes" not in published["points"][0]["fitted"]
    assert "fitted" not in published["points"][1], "only a compaction has figures before it"


def test_a_comparison_is_a_row_of_differences(docs: Path, tmp_path: Path) -> None:
    difference = {"first": 0.5, "second": 0.75, "difference": 0.25, "over_records": 0.125}
    item = {"figure": "reliability.exact", "over_seeds": None, "num_records": 9, **difference}
    others = [{"second": "recipe", "differences": [item]}, {"second": "none", "differences": []}]
    found = {
        "seeds": [0],
        "records": [0, 9],
        "runs": [{"label": "adaple", "commit": "c" * 40, "command": "errata --model /a/path"}],
        "edits": {"1000": {"first": "adaple", "others": others}},
    }
    run = write_run(tmp_path, "adaple/gap", {}, [{"paired": "gap", "row": ""}])
    (run / "compare.json").write_text(json.dumps(found), encoding="utf-8")
    call("publish", run, "--docs", docs)
    call("report", "--docs", docs)
    page = (docs / "results" / "adaple.md").read_text(encoding="utf-8")
    assert "| recipe − adaple | 1,000 | +0.250 ± 0.125 | – |" in page
    assert page.count(" − ") == 1, "a pair without differences is no row"
    assert "](data/adaple/gap.json)" in page
    assert "/a/path" not in (docs / "results" / "data" / "adaple" / "gap.json").read_text()


def test_every_point_can_be_a_row(docs: Path, tmp_path: Path) -> None:
    rows = [{"table": "main", "row": "", "points": "all"}]
    call("publish", write_run(tmp_path, "adaple/all", result(), rows), "--docs", docs)
    call("report", "--docs", docs)
    page = (docs / "results.md").read_text(encoding="utf-8")
    assert page.index("| 1 edits |") < page.index("| 2 edits |")


def test_published_files_are_small_and_without_records() -> None:
    text = as_text(condensed(result(), "adaple/x", "errata …", []))
    assert "secret" not in text
    assert json.loads(text)["points"][1]["final"]["wording_seen"] == {
        "generality.exact": 0.25,
        "rephrases": 7.0,
    }
    many = condensed(result(edits=tuple(range(1, 200))), "adaple/x", "errata …", [])
    with pytest.raises(InvalidRequestError, match="fewer rows"):
        as_text(many)


def test_unusable_files_are_refused(docs: Path, tmp_path: Path) -> None:
    lost = write_run(tmp_path, "adaple/lost", result(), [{"table": "nowhere", "row": "A"}])
    call("publish", lost, "--docs", docs)
    with pytest.raises(InvalidRequestError, match="does not define"):
        Pages(docs)
    bad = write_run(tmp_path, "adaple/bad", result(), [{"row": "A"}])
    done = CliRunner().invoke(bench, ["publish", str(bad), "--docs", str(docs)])
    assert isinstance(done.exception, InvalidRequestError)
    done = CliRunner().invoke(bench, ["publish", str(lost), "--as", "x", "--docs", str(docs)])
    assert isinstance(done.exception, InvalidRequestError)
