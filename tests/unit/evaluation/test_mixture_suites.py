"""Analyses of ELDER and LEMoE: every suite runs and reports claims."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from recipe_models import make_lane_model
from records import write_flat
from tiny_models import TEXT, make_model

from errata.errors import InvalidRequestError
from errata.evaluation.edit.bench import run
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.plots import draw
from errata.evaluation.edit.report import markdown
from errata.evaluation.edit.suites import SUITES, points_of

QUICK = {
    "elder": {"steps": 2, "num_layers": 3, "num_experts": 4, "rank": 2},
    "lemoe": {"steps": 2, "expert_edits": 2},
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("mixtures")
    model = make_model("llama")
    model.model.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    write_flat(folder / "data.json")
    (folder / "text.txt").write_text("\n".join(TEXT), encoding="utf-8")
    make_lane_model(model).save(folder / "lane")
    return Plan(
        method="elder",
        dataset="counterfact",
        data=folder / "data.json",
        out=folder / "out",
        model=str(folder / "model"),
        lane_model=folder / "lane",
        edits=4,
        batch=4,
        text=folder / "text.txt",
        check=False,
        cache_dir=folder / "cache",
    )


def _of(plan: Plan, method: str, suite: str) -> Plan:
    values = dict(QUICK[method])
    if suite == "budget":  # a tiny model has four layers
        values = {"steps": 1}
    out = plan.out / f"{method}-{suite}"
    return replace(plan, method=method, suite=suite, values=values, out=out)


CLAIMED = ("prompts", "rephrases", "others", "unrelated", "changed")
_QUICK_SUITES = [
    (method, name)
    for name, suite in SUITES.items()
    for method in QUICK
    if method in suite.methods and name != "budget"
]


@pytest.mark.parametrize(("method", "suite"), _QUICK_SUITES)
def test_every_suite_runs_and_reports_its_rows(
    plan: Plan, method: str, suite: str, tmp_path: Path
) -> None:
    found = run(_of(plan, method, suite))
    assert [point["label"] for point in found["points"]] == [
        point.label for point in points_of(_of(plan, method, suite))
    ]
    for point in found["points"]:
        assert set(point["final"]["claims"]) == set(CLAIMED)
    report = markdown(found, draw(found, tmp_path))
    assert "### Claims" in report


def test_the_budget_is_swept_around_the_defaults(plan: Plan) -> None:
    rows = [dict(point.varied) for point in points_of(_of(plan, "elder", "budget"))]
    assert {"num_layers": 1} in rows
    assert {"bank_edits": 64} in rows
    budget = _of(plan, "elder", "budget")
    many = replace(budget, edits=1_000, values={**budget.values, "bank_edits": 0})
    narrow = ({"num_layers": 1}, {"num_layers": 2}, {"num_experts": 3})
    assert not any(dict(point.varied) in narrow for point in points_of(many)), "no room for them"
    assert {"num_experts": 16} in rows
    assert {"rank": 4} in rows
    assert all(len(row) == 1 for row in rows)


def test_false_claims_are_measured_at_checkpoints(plan: Plan, tmp_path: Path) -> None:
    found = run(_of(replace(plan, batch=1), "elder", "false-claims"))
    for point in found["points"]:
        assert [item["edits"] for item in point["checkpoints"]] == [1, 2, 3, 4]
        assert all("claims" in item["all"] for item in point["checkpoints"])
    assert "claims.png" in draw(found, tmp_path)


def test_codes_are_placed_in_a_plane(plan: Plan) -> None:
    placed = run(_of(plan, "elder", "tsne"))["points"][0]["units"][0]["embedding"]
    assert placed.keys() == {"edits", "rephrasings", "unrelated"}
    assert len(placed["edits"]) == 4


def test_experts_are_measured_separately(plan: Plan, tmp_path: Path) -> None:
    found = run(_of(plan, "lemoe", "sequential"))
    experts = found["points"][0]["units"][0]["experts"]
    assert len(experts["routing"]) == 2, "four edits, two an expert"
    assert all(sum(row) == pytest.approx(1) for row in experts["routing"])
    assert len(experts["bytes"]) == 2
    each = experts["each"]
    assert [expert["edits"] for expert in each] == [2, 2]
    mean = sum(expert["reliability.token"] for expert in each) / 2
    assert mean == pytest.approx(found["final"]["reliability"]["token"])
    pairs = sum(expert["within"] for expert in each) / 2
    assert pairs == pytest.approx(experts["within"])
    assert "experts.png" in draw(found, tmp_path)
    failures = found["points"][0]["units"][0]["failures"]
    assert sum(failures["counts"].values()) >= sum(map(len, failures["examples"].values())) > 0
    assert "### Experts" in markdown(found, [])


def test_a_compaction_is_measured_before_and_after(plan: Plan) -> None:
    values = {**QUICK["lemoe"], "expert_edits": 1}
    found = run(replace(_of(plan, "lemoe", "compaction"), values=values, edits=4, batch=4))
    (point,) = found["points"]
    (unit,) = point["units"]
    for name in ("reliability", "generality", "locality"):
        assert unit["fitted"][name]["token"] == unit["immediate"][f"{name}.token"], "nothing since"
    assert unit["fitted"]["state_bytes"] > 0
    assert unit["parts"]["compaction"] > 0
    assert len(unit["experts"]["bytes"]) == 4, "as many as there are edits"
    report = markdown(found, [])
    assert "## Compaction, seed 0" in report
    assert f"{unit['fitted']['state_bytes']:,} bytes before" in report


def test_the_published_settings_have_a_name(plan: Plan) -> None:
    found = run(replace(_of(plan, "lemoe", "sequential"), preset="paper", out=plan.out / "paper"))
    assert found["config"]["routing"] == "literal"
    assert found["config"]["steps"] == 2, "single values go on top"
    with pytest.raises(InvalidRequestError, match="no preset 'parper'; it has: one-bank, paper"):
        run(replace(plan, preset="parper"))
    with pytest.raises(InvalidRequestError, match="none has no presets"):
        run(replace(plan, method="none", lane_model=None, preset="paper"))
