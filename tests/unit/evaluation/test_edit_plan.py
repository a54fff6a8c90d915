"""Plans: impossible options, and the runs of each suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from errata.errors import InvalidRequestError
from errata.evaluation.edit import plan as plans
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites import SUITES, points_of
from errata.evaluation.edit.system_factory import SystemFactory

PLAN = Plan("adaple", "counterfact", Path("d"), Path("o"), model="m", edits=70, batch=10)


def test_sequential_and_batch() -> None:
    (point,) = points_of(PLAN)
    assert (point.edits, point.batch, point.repeats) == (70, 10, 1)
    (point,) = points_of(replace(PLAN, suite="batch"))
    assert (point.edits, point.batch) == (70, 70)


def test_scaling_measures_enough_records_at_every_point() -> None:
    points = points_of(replace(PLAN, suite="scaling", points=(1, 10, 100)))
    assert [(point.edits, point.repeats) for point in points] == [(1, 30), (10, 3), (100, 1)]
    assert SUITES["scaling"].headline == -1, "the most edits stand for the run"


def test_ablation_is_a_grid() -> None:
    vary = {"drop": (0.0, 0.5), "gain": (1.0, 2.0, 3.0)}
    points = points_of(replace(PLAN, suite="ablation", vary=vary))
    assert len(points) == 6
    assert points[0].varied == {"drop": 0.0, "gain": 1.0}
    assert points[-1].label == "drop 0.5, gain 3.0"


def test_attenuation_ends_with_all_edits() -> None:
    (point,) = points_of(replace(PLAN, suite="attenuation", edits=125))
    assert point.checkpoints == (20, 40, 60, 80, 100, 120, 125)
    (point,) = points_of(replace(PLAN, suite="attenuation", edits=5))
    assert point.checkpoints == (5,)


def test_analyses_of_adaple() -> None:
    fusions = [point.varied for point in points_of(replace(PLAN, suite="fusion"))]
    assert [values["fusion"] for values in fusions] == ["none", "topk", "dr", "average"]
    assert [values["drop"] for values in fusions] == [0.0, 0.8, 0.8, 0.5]
    (point,) = points_of(replace(PLAN, suite="similarity", values={"drop": 0.5}))
    assert point.inspections == ("update cosines",)
    assert point.varied["drop"] == 0.5
    plugged = points_of(replace(PLAN, suite="plug-in"))
    assert [point.label for point in plugged][:2] == ["MEMIT", "MEMIT, drop 0.8"]
    configs = [SystemFactory(PLAN).config(point.varied).model_dump() for point in plugged]
    assert [config["drop"] for config in configs] == [0.0, 0.8] * 3
    assert {config["optimise"] for config in configs} == {"top"}
    for suite in ("fusion", "drop-rate", "topk", "plug-in", "similarity"):
        for point in points_of(replace(PLAN, suite=suite)):
            SystemFactory(PLAN).config(point.varied)
        with pytest.raises(InvalidRequestError, match="is for adaple, not for grace"):
            points_of(replace(PLAN, suite=suite, method="grace"))


@pytest.mark.parametrize("suite", ["expert-scope", "routing"])
@pytest.mark.parametrize(
    ("preset", "values"), [("", {}), ("", {"num_contexts": 7}), ("paper", {"threshold": None})]
)
def test_lemoes_routing_is_compared_with_the_same_fits(
    suite: str, preset: str, values: dict[str, Any]
) -> None:
    plan = replace(PLAN, method="lemoe", suite=suite, preset=preset, values=values)
    made = SystemFactory(plan).config
    configs = [made(point.varied).model_dump() for point in points_of(plan)]
    assert preset or len({config["scope"] for config in configs}) > 1
    for config in configs:
        assert {**config, **dict.fromkeys(("scope", "routing"))} == {
            **configs[0], **dict.fromkeys(("scope", "routing"))
        }  # fmt: skip
        assert config["num_contexts"] == (0 if preset else values.get("num_contexts", 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": "magic"}, "choose one of sequential, batch, scaling"),
        ({"suite": "ablation"}, "needs --vary"),
        ({"vary": {"drop": (0,)}}, "no other suite accepts it"),
    ],
)
def test_an_unusable_suite_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        points_of(replace(PLAN, **change))


@pytest.mark.parametrize(
    ("change", "name"),
    [({"text": Path("t")}, "text"), ({"check": False}, "no-check"), ({"device": "cuda"}, "device")],
)
def test_an_option_without_effect_on_a_cluster_is_refused(
    change: dict[str, Any], name: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"--{name} has no effect on a running cluster"):
        replace(PLAN, target="host:1", **change)


@pytest.mark.parametrize("change", [{"edits": 0}, {"batch": 0}, {"num_seeds": 0}, {"model": ""}])
def test_an_impossible_plan_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        replace(PLAN, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"method": "mend"},
            "choose one of adaple, elder, lemoe, recipe, memit, memit-accumulated, pmet",
        ),
        (
            {"method": "grace", "target": "host:1"},
            "is a baseline, which clusters do not offer",
        ),
        ({"method": "recipe"}, "recipe needs a --lane-model"),
        ({"method": "adaple", "lane_model": Path("l")}, "adaple has no lane model"),
        ({"method": "grace", "lane_model": Path("l")}, "grace has no lane model"),
    ],
)
def test_an_unusable_method_is_refused(change: dict[str, Any], message: str) -> None:
    plan = replace(PLAN, **change)
    (point,) = points_of(plan)

    def check() -> None:
        SystemFactory(plan).check(point)

    with pytest.raises(InvalidRequestError, match=message):
        check()


@pytest.mark.parametrize("method", ["adaple", "memit", "grace", "none"])
def test_an_unknown_configuration_key_is_named(method: str) -> None:
    factory = SystemFactory(replace(PLAN, method=method, values={"stepz": 1}))
    with pytest.raises(InvalidRequestError, match=f"not valid for {method}: stepz"):
        factory.config({})


def test_values_of_a_file(tmp_path: Path) -> None:
    toml, json = tmp_path / "lane.toml", tmp_path / "lane.json"
    toml.write_text("gain = 2.0\nlayers = [1, 2]\n")
    json.write_text('{"gain": 2.0, "layers": [1, 2]}')
    assert plans.read_values(toml) == plans.read_values(json) == {"gain": 2.0, "layers": [1, 2]}
    json.write_text("[1]")
    toml.write_text("gain = ")
    for path, message in [
        (json, "not a table"),
        (toml, "not valid TOML"),
        (tmp_path / "absent.json", "cannot be read"),
    ]:
        with pytest.raises(InvalidRequestError, match=message):
            plans.read_values(path)


def test_options_as_text() -> None:
    assert plans.parse_range("10:20") == (10, 20)
    assert plans.parse_range("5:")[0] == 5
    assert plans.parse_numbers("1,10,1000", "scale") == (1, 10, 1000)
    assert plans.parse_grid(["drop=0,0.5", "fusion=dr", "layers=[[0],[1,2]]"]) == {
        "drop": (0, 0.5),
        "fusion": ("dr",),
        "layers": ([0], [1, 2]),
    }


@pytest.mark.parametrize("text", ["7", "a:b", "5:5", "-1:3"])
def test_an_unusable_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="not a range of records"):
        plans.parse_range(text)


@pytest.mark.parametrize("text", ["", "a", "10,1", "0,1", "1,1"])
def test_unusable_numbers_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="ascending whole numbers"):
        plans.parse_numbers(text, "scale")


@pytest.mark.parametrize("settings", [["drop"], ["=1"], ["drop="], ["a=1", "a=2"], ["a=[]"]])
def test_an_unusable_grid_is_refused(settings: list[str]) -> None:
    with pytest.raises(InvalidRequestError, match="--vary"):
        plans.parse_grid(settings)


def test_values_are_parsed_one_by_one() -> None:
    assert plans.parse_values(["batch=32", "encoder=null", "stages=joint", "layers=[1, 2]"]) == {
        "batch": 32,
        "encoder": None,
        "stages": "joint",
        "layers": [1, 2],
    }
    for wrong in (["batch"], ["=3"], ["batch="], ["batch=1", "batch=2"]):
        with pytest.raises(InvalidRequestError, match="--set"):
            plans.parse_values(wrong)
