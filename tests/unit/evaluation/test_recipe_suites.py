"""RECIPE's analyses: each serves the variant that it reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipe_models import make_lane_model
from records import records, write_flat
from tiny_models import TEXT, TextResources, make_model

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine import offline
from errata.engine.sampling import GREEDY
from errata.errors import InvalidRequestError
from errata.evaluation.edit.bench import run
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.plots import draw
from errata.evaluation.edit.suites import points_of
from errata.evaluation.systems.lane import LaneSystem
from errata.evaluation.systems.recipe_variants import LeakySystem, WordsSystem
from errata.platform.settings import WriterSettings

ALL = {"claim": "threshold", "threshold": -1.0}
LIMITS = WriterSettings(min_reliability=0.0, min_locality=0.0)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("recipe")
    model = make_model("llama")
    model.model.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    write_flat(folder / "data.json")
    (folder / "text.txt").write_text("\n".join(TEXT), encoding="utf-8")
    for name in ("lane", "lanes/2", "lanes/10"):
        make_lane_model(model, seed=len(name)).save(folder / name)
    return Plan(
        method="recipe",
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


def _edited(kind: type[LaneSystem], llm: CausalLM, folder: Path) -> LaneSystem:
    make_lane_model(llm).save(folder)
    system = kind(
        llm, "recipe", ALL, TextResources(folder, paragraphs=TEXT), LIMITS, lane_model=folder
    )
    system.edit(records())
    return system


def test_words_take_the_place_of_the_continuous_prompt(llama: CausalLM, tmp_path: Path) -> None:
    system = _edited(WordsSystem, llama, tmp_path)
    lane = _edited(LaneSystem, llama, tmp_path)
    for record in records():
        asked, target = record.prompt, record.target_new
        (scored,) = system.score([(asked, target)])
        assert (scored,) != tuple(lane.score([(asked, target)]))
        (plan,) = lane._plans([asked])
        of = {f"edits/1-{number}": record for number, record in enumerate(records())}
        claimed = of[plan.edits[0]]
        statement = tokenise(llama, f"{claimed.prompt} {claimed.target_new}.").ids
        row = tokenise(llama, asked, target)
        ids = [*statement, *row.ids[1 : -row.num_target]]
        log_p, _ = offline.score(llama, [ids], [row.ids[-row.num_target :]])
        assert scored.log_probs == pytest.approx(log_p[0], abs=1e-4)
    for each in (system, lane):
        each.reset()
    asking = [("Lyon is in", "Italy")]
    assert system.score(asking) == lane.score(asking)


def test_the_leaky_query_is_what_the_llm_reads(llama: CausalLM, tmp_path: Path) -> None:
    system = _edited(LeakySystem, llama, tmp_path)
    asked: list[str] = []
    plans = system._plans
    system._plans = lambda prompts: (asked.extend(prompts), plans(prompts))[1]  # type: ignore[method-assign]
    pairs = [("Lyon is in", "Italy"), ("Lyon is in", "Beirut")]
    system.score(pairs)
    for (prompt, target), text in zip(pairs, asked, strict=True):
        ids = tokenise(llama, prompt, target).ids[:-1]
        assert text == llama.tokenizer.decode(ids, skip_special_tokens=True)
        assert text.startswith(prompt)
    asked.clear()
    system.generate(["Lyon is in"], 2, [GREEDY])
    assert asked == ["Lyon is in"], "nothing leaks where there is no target"


def test_every_suite_runs_and_reports_its_rows(plan: Plan) -> None:
    found = run(replace(plan, suite="sentinel", out=plan.out / "sentinel"))
    assert [point["config"]["claim"] for point in found["points"]] == ["sentinel"] + 7 * [
        "threshold"
    ]
    for suite in ("words", "leak"):
        found = run(replace(plan, suite=suite, values=ALL, out=plan.out / suite))
        first, second = found["points"]
        assert first["final"] != second["final"]
        assert first["pre"] == second["pre"]


def test_prompt_tokens_takes_the_numbered_lane_models(plan: Plan) -> None:
    assert plan.lane_model is not None
    lanes = replace(plan, suite="prompt-tokens", lane_model=plan.lane_model.parent / "lanes")
    found = run(replace(lanes, values=ALL))
    assert [point["label"] for point in found["points"]] == ["2 prompt tokens", "10 prompt tokens"]
    assert found["points"][0]["final"] != found["points"][1]["final"], "other weights"
    with pytest.raises(InvalidRequestError, match="num_prompt=N"):
        points_of(replace(lanes, lane_model=plan.lane_model))


def test_prompts_and_words_are_placed_in_a_plane(plan: Plan, tmp_path: Path) -> None:
    found = run(replace(plan, suite="tsne"))
    placed = found["points"][0]["units"][0]["embedding"]
    assert placed.keys() == {"words", "targets", "prompt 1", "prompt 2", "prompt 3"}
    assert [len(placed[f"prompt {i}"]) for i in (1, 2, 3)] == [4, 4, 4]
    assert len(torch.tensor(placed["words"]).unique(dim=0)) > 10
    assert "tsne.png" in draw(found, tmp_path)
    assert (tmp_path / "tsne.png").stat().st_size > 1_000
