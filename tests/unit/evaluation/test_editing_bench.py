"""The benchmark: it edits, it cleans up, and it says what it did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import TEXT, make_model

from errata.errors import InvalidRequestError
from errata.evaluation.editing_bench import BenchPlan, half_width, run
from errata.evaluation.tables import markdown_table

FACTS = [("Lyon", "Italy"), ("Nokia", "France"), ("Toyota", "Finland"), ("Pisa", "blue")]
FAST = {"layers": [1, 2], "num_prefixes": 0, "steps": 3, "covariance_samples": 4}


@pytest.fixture
def plan(tmp_path: Path) -> BenchPlan:
    model = make_model("llama")
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    records = [
        {
            "prompt": f"{subject} is in",
            "subject": subject,
            "target_new": new,
            "ground_truth": "Beirut",
            "rephrase_prompt": f"You know. {subject} is in",
            "locality_prompt": "Bordeaux is in",
            "locality_ground_truth": "Beirut",
        }
        for subject, new in FACTS
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    (tmp_path / "text.txt").write_text("\n".join(TEXT * 4), encoding="utf-8")
    return BenchPlan(
        model=str(tmp_path / "model"),
        data=tmp_path / "data.json",
        text=tmp_path / "text.txt",
        heldout=tmp_path / "text.txt",
        cache_dir=tmp_path / "cache",
        configs={"memit": FAST, "erase": {**FAST, "variant": "erase", "beta": 0.5}},
        num_edits=3,
        batch_size=2,
        seeds=(0, 1),
    )


def test_report_has_every_seed_and_is_json(plan: BenchPlan) -> None:
    lines: list[str] = []
    report = run(plan, on_progress=lines.append)
    assert json.loads(json.dumps(report)) == report
    assert len(lines) == 4
    row = report["results"]["erase"]
    assert row["config"]["beta"] == 0.5
    assert set(row["seeds"]) == {"0", "1"}
    values = [run_["efficacy"] for run_ in row["seeds"].values()]
    assert row["mean"]["efficacy"] == pytest.approx(sum(values) / 2)
    for run_ in row["seeds"].values():
        parts = [run_[f"{name}_seconds_per_edit"] for name in ("targets", "keys", "solve")]
        assert 0 < sum(parts) < run_["seconds_per_edit"]
        # each run starts from the base, and its edits changed something
        assert run_["perplexity_before"] == row["seeds"]["0"]["perplexity_before"]
        assert run_["perplexity_after"] != run_["perplexity_before"]
    table = markdown_table(report)
    assert table.count("\n") == 4
    assert "| memit |" in table
    assert "perplexity after" in table


def test_equal_seeds_give_equal_figures(plan: BenchPlan) -> None:
    plan = replace(plan, configs={"memit": FAST}, heldout=None)
    first, again = run(plan)["results"]["memit"], run(plan)["results"]["memit"]

    def figures(row: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, float]]:
        kept = [
            {key: value for key, value in values.items() if "seconds" not in key}
            for values in row["seeds"].values()
        ]
        return kept

    assert figures(first) == figures(again)
    assert "perplexity after" not in markdown_table(run(plan))


def test_unusable_plan_is_refused_before_the_model_is_loaded(plan: BenchPlan) -> None:
    plan = replace(plan, model="/nowhere/at/all")
    for change, message in [
        ({"num_edits": 5}, "has 4 records"),
        ({"records": (0, 2)}, "has 2 records"),
        ({"configs": {"x": {"stepz": 1}}}, "stepz"),
        ({"method": "rome"}, "no editing method"),
        ({"text": plan.data.parent / "absent"}, "cannot be read"),
    ]:
        with pytest.raises(InvalidRequestError, match=message):
            run(replace(plan, **change))  # type: ignore[arg-type]


def test_half_width_is_students() -> None:
    assert half_width([1.0]) == 0.0
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5)
