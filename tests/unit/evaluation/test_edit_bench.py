"""`errata bench edit` on a tiny model: figures, resumption, reports, comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_models import make_lane_model
from records import FACTS, FAST, write_flat
from tiny_models import TEXT, make_model
from typer.testing import CliRunner

from errata.bench_cli import bench
from errata.editing.adaple.config import AdapleConfig
from errata.editing.artifact import Artifact
from errata.editing.lane.commits import Commit
from errata.editing.model.causal_lm import CausalLM
from errata.errors import InvalidRequestError
from errata.evaluation.edit import unit
from errata.evaluation.edit.bench import run
from errata.evaluation.edit.compare import compared, read_runs
from errata.evaluation.edit.confidence import half_width
from errata.evaluation.edit.plan import AuxiliaryData, Plan
from errata.evaluation.edit.plots import draw, draw_compared
from errata.evaluation.edit.report import markdown
from errata.evaluation.edit.summary import nested
from errata.evaluation.edit.update_cosines import update_cosines
from errata.evaluation.report import write

NESTED = ("reliability", "generality", "locality")
FLAT = ("efficacy", "generalization", "specificity", "score")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data and text as a user would provide them."""
    path = tmp_path_factory.mktemp("bench")
    model = make_model("llama")
    model.model.save_pretrained(path / "model")
    model.tokenizer.save_pretrained(path / "model")
    write_flat(path / "data.json")
    (path / "text.txt").write_text("\n".join(TEXT * 4), encoding="utf-8")
    questions = [
        {"question": "Lyon is", "choices": ["blue", "Helsinki"], "answer": 0},
        {"question": "Pisa", "answer": "is"},
    ]
    (path / "trivia.jsonl").write_text("\n".join(map(json.dumps, questions)))
    references = [{"target": target, "text": f"{target} is far away."} for _, target in FACTS]
    (path / "references.jsonl").write_text("\n".join(map(json.dumps, references)))
    return path


@pytest.fixture
def plan(folder: Path, tmp_path: Path) -> Plan:
    return Plan(
        method="adaple",
        dataset="counterfact",
        data=folder / "data.json",
        out=tmp_path / "out",
        model=str(folder / "model"),
        edits=4,
        batch=2,
        values=FAST,
        text=folder / "text.txt",
        check=False,
        cache_dir=folder / "cache",
    )


def _figures(found: Any) -> Any:
    """Everything except what differs from run to run."""
    volatile = {
        "edit_seconds_mean",
        "edit_seconds",
        "edit_cpu_seconds_mean",
        "edit_cpu_seconds",
        "seconds",
        "seconds_each",
        "ask_seconds",
        "parts",
        "environment",
    }
    if isinstance(found, dict):
        return {key: _figures(value) for key, value in found.items() if key not in volatile}
    return [_figures(item) for item in found] if isinstance(found, list) else found


def test_a_result_has_the_names_that_other_tools_read(plan: Plan) -> None:
    found = run(plan)
    assert json.loads(json.dumps(found)) == found
    assert found["metrics"] == found["final"]
    for stage in ("metrics", "pre", "immediate", "final"):
        for name in NESTED:
            assert set(found[stage][name]) == {"token", "exact"}
        assert set(FLAT) < set(found[stage])
    assert found["pre"]["locality"]["token"] == 1.0
    assert (found["method"], found["dataset"], found["suite"]) == (
        "adaple",
        "counterfact",
        "sequential",
    )
    assert (found["edits"], found["batch"], found["seed"], found["num_rejected"]) == (4, 2, 0, 0)
    assert found["edit_seconds_mean"] > 0
    assert found["edit_cpu_seconds_mean"] > 0
    assert found["state_bytes"] > 0
    assert found["commit"]
    assert found["command"].split()[0] == "errata"
    assert len(found["model"]["digest"]) == len(found["data"]["digest"]) == 64
    assert found["data"]["records"] == [0, 4]
    assert found["ci95_over"] == "records"
    assert found["config"]["steps"] == FAST["steps"]
    (point,) = found["points"]
    (one,) = point["units"]
    assert [(batch["start"], batch["size"]) for batch in one["batches"]] == [(0, 2), (2, 2)]
    last = one["batches"][-1]
    assert last["immediate"] == last["final"], "nothing was edited after the last batch"
    assert (
        one["immediate"]["efficacy"] == sum(b["immediate"]["efficacy"] for b in one["batches"]) / 2
    )


def test_auxiliary_figures_are_measured_in_addition_to_the_records(
    plan: Plan, folder: Path
) -> None:
    found = run(
        replace(
            plan,
            auxiliary=AuxiliaryData(
                heldout=folder / "text.txt",
                retention=(folder / "trivia.jsonl",),
                references=folder / "references.jsonl",
                num_texts=2,
            ),
        )
    )
    for stage in ("pre", "final"):
        figures = found[stage]
        assert figures["perplexity"] > 1
        assert figures["fluency"] > 0
        assert 0 <= figures["consistency"] <= 100
        assert set(figures["retention"]) == {"trivia"}
    assert found["pre"]["perplexity"] != found["final"]["perplexity"]
    assert "perplexity" not in found["immediate"]


def test_equal_plans_give_equal_figures_and_seeds_give_intervals(plan: Plan) -> None:
    plan = replace(plan, edits=2, num_seeds=2)
    first = run(plan)
    again = run(replace(plan, out=plan.out / "again"))
    assert _figures(first) == _figures(again)
    assert first["ci95_over"] == "seeds"
    values = [unit["final"]["target_perplexity"] for unit in first["points"][0]["units"]]
    assert first["final"]["target_perplexity"] == pytest.approx(sum(values) / 2)
    assert first["ci95"]["target_perplexity"] == half_width(values)


def test_an_interrupted_run_resumes(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(plan, edits=2, num_seeds=3)
    whole = _figures(run(replace(plan, out=plan.out / "whole")))
    original, seen = unit.measures_of, []

    def dies(*args: Any) -> Any:
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(unit, "measures_of", dies)
    with pytest.raises(KeyboardInterrupt):
        run(plan)
    done = {path: path.stat().st_mtime_ns for path in (plan.out / "runs").iterdir()}
    assert 0 < len(done) < 3
    monkeypatch.undo()
    assert _figures(run(plan)) == whole
    assert all(path.stat().st_mtime_ns == when for path, when in done.items()), "not run again"
    assert len(list((plan.out / "runs").iterdir())) == 3


def test_another_plan_in_the_same_folder_does_not_reuse_runs(plan: Plan) -> None:
    run(plan)
    run(replace(plan, values={**FAST, "steps": 2}))
    run(replace(plan, batch=4))
    assert len(list((plan.out / "runs").iterdir())) == 3


def test_scaling_starts_from_the_unedited_model_at_every_repeat(plan: Plan, tmp_path: Path) -> None:
    same = tmp_path / "same.json"
    same.write_text(json.dumps(json.loads(plan.data.read_text())[:1] * 30))
    tuned = replace(plan, method="ft-l", values={"bound": 0.1}, data=same, text=None)
    found = run(replace(tuned, suite="scaling", points=(1,)))
    (point,) = found["points"]
    assert found["edits"] == 1
    assert point["units"][0]["batches"] == []
    once = run(replace(tuned, edits=1, out=plan.out / "once"))
    # One edit over another would have gone on where the one before it ended.
    assert point["final"] == once["final"]
    assert once["final"] != once["pre"]


def test_attenuation_follows_the_first_edits(plan: Plan) -> None:
    found = run(replace(plan, suite="attenuation"))
    checkpoints = found["points"][0]["checkpoints"]
    assert [item["edits"] for item in checkpoints] == [2, 4]
    assert checkpoints[0]["all"] == checkpoints[0]["first"]
    assert checkpoints[-1]["all"]["efficacy"] == found["final"]["efficacy"]


def test_similarity_of_updates_is_reported(plan: Plan) -> None:
    plan = replace(plan, suite="similarity", batch=1, values={**FAST, "drop": 0.5})
    found = run(plan)["points"][0]["units"][0]["similarity"]
    assert (found["layer"], found["drop"], len(found["before"])) == (2, 0.5, 4)
    only_one = run(replace(plan, batch=4))["points"][0]["units"][0]
    assert "similarity" not in only_one, "there is nothing to compare"


def test_independent_masks_multiply_cosines_by_the_mechanical_factor() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(96 + 256, 1, generator=generator)
    commits = []
    for seq in range(3):
        own = shared + 0.3 * torch.randn(96 + 256, 1, generator=generator)
        tensors = {"layer.1.left": own[:96].clone(), "layer.1.right": own[96:].clone()}
        commits.append(Commit(seq, (f"e{seq}",), Artifact(tensors, {"seed": str(seq)})))
    found = update_cosines(commits, AdapleConfig(drop=0.6), layer=1)
    assert found["mean_before"] > 0.7
    assert found["mechanical"] == pytest.approx(0.4 * found["mean_before"])
    assert found["mean_after"] == pytest.approx(found["mechanical"], abs=0.02)
    same = update_cosines(commits, AdapleConfig(drop=0.0), layer=1)
    assert same["mean_after"] == same["mean_before"] == same["mechanical"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edits": 5}, "has 4 records"),
        ({"records": (0, 2)}, "has 2 records"),
        ({"values": {"stepz": 1}}, "stepz"),
        ({"method": "mend"}, "no method is called"),
        ({"dataset": "mquake"}, "no data set"),
        ({"data": Path("/absent")}, "cannot be read"),
        ({"auxiliary": AuxiliaryData(heldout=Path("/absent"))}, "cannot be read"),
        ({"text": Path("/absent")}, "cannot be read"),
        (
            {"auxiliary": AuxiliaryData(retention=(Path("/a/x.jsonl"), Path("/b/x.jsonl")))},
            "have the same name",
        ),
    ],
)
def test_a_bad_plan_is_refused_before_the_model_is_loaded(
    plan: Plan, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        run(replace(plan, model="/nowhere/at/all", **change))
    assert not plan.out.exists()


def test_the_command_writes_result_report_and_pictures(plan: Plan, folder: Path) -> None:
    lane = folder / "lane.json"
    lane.write_text(json.dumps(FAST))
    arguments = [
        "edit", "--method", "adaple", "--dataset", "counterfact", "--data", str(plan.data),
        "--model", plan.model, "--edits", "2", "--batch", "1", "--lane-config", str(lane),
        "--text", str(plan.text), "--in-process", "--no-check", "--suite", "ablation",
        "--vary", "gain=0.5,1", "--vary", "drop=0,0.5", "--seeds", "2",
        "--cache-dir", str(plan.cache_dir), "--out", str(plan.out),
    ]  # fmt: skip
    done = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads((plan.out / "result.json").read_text())
    assert [point["varied"] for point in found["points"]] == [
        {"gain": 0.5, "drop": 0}, {"gain": 0.5, "drop": 0.5},
        {"gain": 1, "drop": 0}, {"gain": 1, "drop": 0.5},
    ]  # fmt: skip
    report = (plan.out / "report.md").read_text()
    assert "| gain 1, drop 0.5 |" in report
    for name in ("immediate-final.png", "grid.png", "edit-time.png"):
        assert f"]({name})" in report
        assert (plan.out / name).read_bytes().startswith(b"\x89PNG")


def test_families_never_share_a_table(plan: Plan, folder: Path) -> None:
    found = run(
        replace(plan, auxiliary=AuxiliaryData(heldout=folder / "text.txt"), suite="attenuation")
    )
    plan.out.mkdir(parents=True, exist_ok=True)
    report = markdown(found, draw(found, plan.out))
    headings = [line for line in report.splitlines() if line.startswith("|  | ")]
    assert (
        "|  | Rel. token | Rel. exact | Gen. token | Gen. exact | Loc. token | Loc. exact |"
        in headings
    )
    assert "|  | Efficacy | Generalization | Specificity | Score |" in headings
    assert "|  | Targets | Held-out text |" in headings
    assert (plan.out / "attenuation.png").is_file()
    assert (plan.out / "forgetting.png").is_file()


def test_runs_side_by_side(plan: Plan, folder: Path, tmp_path: Path) -> None:
    folders = []
    for method, values in (("adaple", FAST), ("grace", {"layer": 2})):
        out = tmp_path / method
        found = run(replace(plan, method=method, values=values, out=out))
        write(found, out)
        folders.append(out)
    runs = read_runs(folders)
    report = compared(runs)
    assert "## 4 edits" in report
    for method in ("adaple", "grace"):
        assert report.count(f"\n| {method} |") == 7, "what was run, five families, the cost"
    assert "### grace against adaple, paired" in report
    draw_compared(runs, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").is_file()
    done = CliRunner().invoke(
        bench, ["compare", *map(str, folders), "--out", str(tmp_path / "both")]
    )
    assert done.exit_code == 0
    assert (tmp_path / "both" / "compare.md").read_text().startswith("# adaple, grace")
    pairs = json.loads((tmp_path / "both" / "compare.json").read_text())["edits"]["4"]
    assert (pairs["first"], pairs["others"][0]["second"]) == ("adaple", "grace")


def test_without_a_lane_model_every_relation_is_unseen(plan: Plan) -> None:
    found = run(plan)
    group = found["final"]["relation_unseen"]
    assert (group["prompts"], group["rephrases"]) == (4, 4)
    assert group["generality.exact"] == found["final"]["generality"]["exact"]
    assert "wording_seen" not in found["final"]
    assert found["points"][0]["exposure"]["relations_seen"] == []
    assert "served" not in found["final"], "with --no-check there is no check to pass"


def test_the_suite_users_adds_its_figures(plan: Plan) -> None:
    found = run(replace(plan, suite="users", values={**FAST, "steps": 1}))
    users = found["final"]["users"]
    assert {"changed", "changed_back", "refused"} < set(users)
    assert "held_at_50" not in users, "the tiny model reads 64 tokens"
    assert users["ripple_questions"] == 0, "the data have no second facts"
    assert "ripple" not in users
    assert "### What users need" in markdown(found, ())
    again = run(replace(plan, suite="users", values={**FAST, "steps": 1}, out=plan.out / "again"))
    assert again["final"] == found["final"], "nothing is left of the edits in between"


def test_what_the_product_does_is_the_share_accepted_and_exact(plan: Plan) -> None:
    found = run(replace(plan, values={**FAST, "steps": 1}, check=True))
    (unit,) = found["points"][0]["units"]
    held = unit["records"]["figures"]["reliability.exact"]
    assert found["final"]["accepted"] == 1 - found["num_rejected"] / 4
    assert found["final"]["served"] <= min(found["final"]["accepted"], sum(held) / 4)


def test_only_runs_on_the_same_data_are_compared(plan: Plan, tmp_path: Path) -> None:
    plan = replace(plan, method="none", values={}, edits=2)
    write(run(plan), tmp_path / "a")
    write(run(replace(plan, records=(0, 3), out=tmp_path / "o")), tmp_path / "b")
    write(run(replace(plan, seed=1, out=tmp_path / "o")), tmp_path / "d")
    for other, what in (("b", "records"), ("d", "seeds")):
        with pytest.raises(InvalidRequestError, match=f"on different {what}"):
            read_runs([tmp_path / "a", tmp_path / other])
    write(run(plan), tmp_path / "deeper" / "a")
    twins = compared(read_runs([tmp_path / "a", tmp_path / "deeper" / "a"]))
    assert "| none (" in twins, "equal names are told apart by their folders"
    with pytest.raises(InvalidRequestError, match="at least two"):
        read_runs([tmp_path / "a"])
    with pytest.raises(InvalidRequestError, match="not a readable result"):
        read_runs([tmp_path / "a", tmp_path / "absent"])
    write({"suite": "mixed"}, tmp_path / "c")
    with pytest.raises(InvalidRequestError, match="not a result of `errata bench edit`"):
        read_runs([tmp_path / "a", tmp_path / "c"])


def test_half_width_is_students() -> None:
    assert half_width([1.0]) is None
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5, rel=1e-3)


def test_figures_are_nested_by_their_names() -> None:
    assert nested({"a.b": 1.0, "a.c": 2.0, "d": None}) == {"a": {"b": 1.0, "c": 2.0}, "d": None}


def test_another_lane_model_is_another_run(plan: Plan, tmp_path: Path) -> None:
    llm = CausalLM.load(plan.model)
    lane = tmp_path / "lane"
    made = replace(plan, method="recipe", lane_model=lane, values={})
    found = []
    for seed in (0, 0, 1):
        make_lane_model(llm, seed=seed).save(lane)
        found.append(run(made))
    assert _figures(found[0]) == _figures(found[1])
    assert len(list((plan.out / "runs").iterdir())) == 2, "the second one was read"
    assert found[0]["lane_model"]["path"] == str(lane)
    assert found[0]["lane_model"]["digest"] != found[2]["lane_model"]["digest"]
    assert "lane model" in markdown(found[2], [])
