"""Services and benchmarks share the statistics of a base model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from records import FAST, write_flat
from tiny_models import TEXT, make_model
from typer.testing import CliRunner

from errata.cli import app
from errata.evaluation.edit.bench import run
from errata.evaluation.edit.plan import Plan, default_cache_dir


def _run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, [str(part) for part in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def _written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, records, and lanes file and text as users write them."""
    monkeypatch.setenv("ERRATA_DATA_DIR", str(tmp_path / "data"))
    model = make_model("llama")
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    write_flat(tmp_path / "data.json")
    # Blanks around lines, blank lines, and a character that only some readers end a line at.
    text = "\n\n".join(f" {paragraph}\u2028More. " for paragraph in TEXT * 4)
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    (tmp_path / "other.txt").write_text(text[:-60], encoding="utf-8")
    values = "\n".join(f"{key} = {json.dumps(value)}" for key, value in FAST.items())
    (tmp_path / "lanes.toml").write_text(
        f'[lanes.main]\nmethod = "adaple"\n[lanes.main.config]\n{values}\n'
    )
    return tmp_path


def _bench(folder: Path, text: str) -> None:
    """A benchmark that names no folder for its cache."""
    run(
        Plan(
            "adaple",
            "counterfact",
            folder / "data.json",
            folder / f"out-{text}",
            model=str(folder / "model"),
            edits=2,
            batch=2,
            values=FAST,
            text=folder / text,
            check=False,
        )
    )


def test_a_benchmark_uses_what_errata_statistics_computed(folder: Path) -> None:
    _run(
        "statistics", "--model", folder / "model", "--text", folder / "text.txt",
        "--lanes-file", folder / "lanes.toml",
    )  # fmt: skip
    cache = folder / "data/statistics"
    assert default_cache_dir() == cache
    computed = _written(cache)
    assert len(computed) == 4, "two files for each layer"
    _bench(folder, "text.txt")
    assert _written(cache) == computed
    _bench(folder, "other.txt")  # control
    assert len(_written(cache)) == 8


def test_a_data_dir_can_be_prepared_for_a_system(folder: Path) -> None:
    shown = _run(
        "statistics", "--model", folder / "model", "--text", folder / "text.txt",
        "--lanes-file", folder / "lanes.toml", "--data-dir", folder / "elsewhere",
    )  # fmt: skip
    assert len(_written(folder / "elsewhere/statistics")) == 4
    assert str(folder / "elsewhere/statistics") in shown.replace("\n", "")
    assert "tokens, 0 s left" in shown
