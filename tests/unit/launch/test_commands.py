"""Commands that need no running system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from errata.cli import app
from errata.errors import InvalidRequestError, StartupError

RUN = CliRunner()
FLAT = {
    "prompt": "Lyon is in",
    "subject": "Lyon",
    "target_new": "Italy",
    "ground_truth": "France",
    "rephrase_prompt": "Lyon lies in",
    "locality_prompt": "Nice is in",
    "locality_ground_truth": "France",
}


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")


def test_statistics_are_computed_once_from_any_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The capital of France is Paris.\nGold is an element.\n" * 50)
    for _ in range(2):
        done = RUN.invoke(app, ["statistics", "--text", str(text)], catch_exceptions=False)
        assert done.exit_code == 0
        assert "statistics" in done.output
    files = sorted((tmp_path / "statistics").iterdir())
    assert files, "one file for each edited layer"
    written = {file: file.stat().st_mtime_ns for file in files}
    RUN.invoke(app, ["statistics", "--text", str(text)], catch_exceptions=False)
    assert {file: file.stat().st_mtime_ns for file in files} == written
    with pytest.raises(StartupError, match="is no file"):
        RUN.invoke(app, ["statistics", "--text", str(tmp_path / "none")], catch_exceptions=False)


def test_settings_are_shown_with_origin_and_without_passwords(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ERRATA_LOG__REDIS_URL", "redis://user:secret@somewhere:6379/0")
    done = RUN.invoke(app, ["config"], catch_exceptions=False)
    (line,) = [line for line in done.output.splitlines() if "redis_url" in line]
    assert "environment" in line
    assert "***" in line
    assert "secret" not in done.output


def test_the_demo_model_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(StartupError, match="not empty"):
        RUN.invoke(app, ["demo-model", str(tmp_path)], catch_exceptions=False)
    assert (tmp_path / "kept").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --model PATH to run in process"),
        (["--model", "m", "--in-process", "--target", "h:1"], "not both"),
        (["--model", "m", "--records", "7"], "no range of records"),
        (["--model", "m", "--method", "rome"], "no method is called 'rome'"),
        (["--model", "m", "--suite", "magic"], "no suite is called 'magic'"),
    ],
)
def test_options_of_the_bench_that_cannot_be_are_told(
    tmp_path: Path, options: list[str], message: str
) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([FLAT]))
    command = ["bench", "edit", "--data", str(data), "--out", str(tmp_path / "out")]
    with pytest.raises(InvalidRequestError, match=message):
        RUN.invoke(app, [*command, *options], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_suites_are_listed() -> None:
    done = RUN.invoke(app, ["bench", "suites"])
    assert "attenuation" in done.output
    assert "drop-rate" in done.output
