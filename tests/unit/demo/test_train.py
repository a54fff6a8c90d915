"""Training is a function of its seed, and its output can be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from errata.demo.train import TrainConfig, train_demo_model

TINY = TrainConfig(
    vocab_size=600,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=2,
    num_steps=3,
    rows_per_step=4,
    num_threads=1,
)


def saved(folder: Path) -> dict[str, bytes]:
    """Bytes of every file in a folder."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_demo_model(tmp_path / name, seed=seed, config=TINY)
    assert saved(tmp_path / "a") == saved(tmp_path / "b")
    assert saved(tmp_path / "a") != saved(tmp_path / "c")


def test_progress_and_report_agree(tmp_path: Path) -> None:
    seen: list[tuple[int, int, float]] = []
    report = train_demo_model(tmp_path, config=TINY, on_progress=lambda *step: seen.append(step))
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert report.final_loss == seen[-1][2]
    assert report.num_steps == 3


@pytest.mark.parametrize("text", ["France is a country.", "Anything at all: é, 日本, 🙂"])
def test_saved_tokenizer_adds_bos_and_loses_nothing(tmp_path: Path, text: str) -> None:
    report = train_demo_model(tmp_path, config=TINY)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert str(tokenizer.decode(ids, skip_special_tokens=True)).strip() == text
    assert model.num_parameters() == report.num_parameters
