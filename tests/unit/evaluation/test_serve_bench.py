"""The parts of `errata bench serve` that decide what is reported."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from recipe_models import make_lane_model
from rich.console import Console

from errata import demo
from errata.editing.model.causal_lm import CausalLM
from errata.engine.sequence import GenerationRequest
from errata.engine.serving_state import initial_plan
from errata.errors import InvalidRequestError
from errata.evaluation.report import write
from errata.evaluation.serve import engine_suites
from errata.evaluation.serve.answers import Sample, count_mixed, count_stale, count_wrong
from errata.evaluation.serve.engine_bench import EnginePlan
from errata.evaluation.serve.import_bench import ImportPlan, import_figures, write_rows
from errata.evaluation.serve.load_edits import counterfactual_edits
from errata.evaluation.serve.load_plan import LoadPlan, arrivals
from errata.evaluation.serve.own_system import OwnSystem
from errata.evaluation.serve.report import quantiles_ms, suite_report, terminal_table
from errata.evaluation.serve.routed import SyntheticLane, routed_state
from errata.evaluation.serve.workload import Timings, Workload
from errata_client import Provenance

AT_FIVE = Provenance(5, "chain-5", "state-5", "worker-a", (), 1)


def _sample(*provenances: Provenance, **fields: object) -> Sample:
    sample = Sample(0.0, False, provenances=list(provenances), ended=1.0)
    return replace(sample, **fields)  # type: ignore[arg-type] # a test's own fields


def test_quantiles_are_by_rank() -> None:
    assert quantiles_ms([0.001 * n for n in range(1, 101)]) == pytest.approx(
        {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    )
    assert quantiles_ms([0.002]) == pytest.approx({"p50": 2.0, "p95": 2.0, "p99": 2.0})
    assert quantiles_ms([]) == {"p50": None, "p95": None, "p99": None}


def test_answers_below_the_requested_position_are_stale() -> None:
    old, fresh = _sample(AT_FIVE, min_seq=6), _sample(AT_FIVE, min_seq=5)
    streamed = _sample(replace(AT_FIVE, applied_seq=7), AT_FIVE, min_seq=6)
    assert count_stale([old, fresh, streamed, _sample(AT_FIVE)]) == 2


def test_mixed_answers_are_detected_in_a_stream_and_between_replicas() -> None:
    later = Provenance(6, "chain-6", "state-6", "worker-a", (), 1)
    other_replica = replace(AT_FIVE, replica="worker-b")
    assert count_mixed([_sample(AT_FIVE, AT_FIVE), _sample(later), _sample(other_replica)]) == 0
    assert count_mixed([_sample(AT_FIVE, later)]) == 1
    differing = replace(other_replica, state_digest="another")
    assert count_mixed([_sample(AT_FIVE), _sample(differing)]) == 1


def test_wrong_answers_do_not_begin_with_the_edit() -> None:
    right = _sample(expected="Lyon", text=" Lyon.")
    wrong = _sample(expected="Lyon", text=" Paris.")
    failed = _sample(expected="Lyon", error="UNAVAILABLE")
    assert count_wrong([right, wrong, failed, _sample(text="anything")]) == 1


def test_arrivals_are_generated_in_advance_at_the_rate(tmp_path: Path) -> None:
    plan = LoadPlan(tmp_path, rate=50.0, seconds=80.0)
    due = arrivals(plan, ["a", "b"], seed=1)
    assert due == arrivals(plan, ["a", "b"], seed=1)
    assert due != arrivals(plan, ["a", "b"], seed=2)
    assert [arrival.at for arrival in due] == sorted(arrival.at for arrival in due)
    assert due[-1].at < 20.0
    assert len(due) == pytest.approx(1_000, rel=0.15)
    assert len(arrivals(replace(plan, max_requests=40), ["a"], seed=1)) == 10


def test_counterfactual_edits_contradict_the_corpus() -> None:
    specs = counterfactual_edits()
    facts = {(fact.subject, fact.object) for fact in demo.load_corpus().facts()}
    assert len(specs) > 100
    turned = [spec for spec in specs if (spec.subject, spec.target) not in facts]
    assert len(turned) == len(specs)


@pytest.fixture(scope="module")
def lane_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lane")
    make_lane_model(CausalLM.load(demo.model_path())).save(folder)
    return folder


@pytest.mark.parametrize("suite", ["baseline", "mixed", "unclaimed", "routed"])
def test_each_suite_runs_and_reports_what_tools_read(
    suite: str, lane_model: Path, tmp_path: Path
) -> None:
    plan = EnginePlan(
        str(demo.model_path()),
        rounds=1,
        workload=Workload(6, concurrency=4, new_tokens=(2, 8)),
        num_edits=150,
        max_rows=4,
        lane=SyntheticLane("recipe", {}, lane_model, 150),
    )
    found = engine_suites.run(suite, plan, console=Console(quiet=True))
    again = json.loads(write(found, tmp_path).read_text())
    assert again["suite"] == suite
    assert again["ratio"] > 0
    assert again["tokens_per_second"]["ours"] > 0
    assert again["ttft_ms"]["p50"] > 0
    assert again["itl_ms"]["p50"] > 0
    assert again["e2e_ms"]["p99"] >= again["e2e_ms"]["p50"] > 0
    assert len(again["commit"]) >= 5
    assert (suite == "baseline") == ("equal_lengths" in again)
    assert (suite == "routed") == ("unclaimed" in again)
    Console(quiet=True).print(terminal_table(found))


_CODES = {"scope": "codes", "epsilon": 12, "gates": "row", "num_layers": 6}
_ROUTED = [
    ("recipe", {}),
    ("elder", {}),
    ("elder", _CODES),
    ("elder", {"scope": "cosine", "threshold": 0.5}),
    ("lemoe", {}),
    ("lemoe", {"scope": "cosine", "threshold": 0.5}),
]


@pytest.mark.parametrize(("method", "values"), _ROUTED)
def test_a_routed_lane_claims_every_row_or_none(
    method: str, values: dict[str, object], lane_model: Path
) -> None:
    model = CausalLM.load(demo.model_path())
    requests = [GenerationRequest((1,), 1, prompt=text) for text in ("Lyon is", "Toyota makes")]
    for claimed in (True, False):
        lane = SyntheticLane(method, values, lane_model, 30)
        serving = routed_state(model, lane, claimed=claimed)
        assert serving.router is not None
        decisions = serving.router.before_prefill(requests, single_pass=False)
        assert [bool(initial_plan(each).edits) for each in decisions] == [claimed] * 2
        assert (serving.router.module is not None) == (
            values.get("scope") in ("codes", "cosine")
        ) or (method == "lemoe"), "a hidden state is read in the prompt's own prefill"


@pytest.mark.parametrize(
    ("lane", "problem"),
    [
        (SyntheticLane("recipe", {}, None, 10), "give --lane-model"),
        (SyntheticLane("adaple", {}, None, 10), "does not route"),
        (None, "needs a lane"),
    ],
)
def test_a_lane_that_cannot_be_served_is_refused(lane: SyntheticLane | None, problem: str) -> None:
    plan = EnginePlan(str(demo.model_path()), lane=lane)
    with pytest.raises(InvalidRequestError, match=problem):
        engine_suites.run("routed", plan, console=Console(quiet=True))


def test_a_report_without_edits_has_empty_visibility() -> None:
    found = suite_report(
        "x", ratio=None, ours=1.0, baseline=1.0, first=[], between=[], whole=[], requests=0
    )
    assert found["edit_visible_ms"]["all"] == {"p50": None, "p95": None, "p99": None}
    assert found["errors"] == found["stale_answers"] == found["mixed_version_answers"] == 0


def test_imported_rows_are_edits_of_their_own(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", 500)
    with (tmp_path / "rows.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["prompt"] for row in rows}) == 500
    assert all(row["subject"] in row["prompt"] and row["target"] for row in rows)


def test_an_import_tells_rows_that_are_lost_or_repeated() -> None:
    timings = [Timings(num_tokens=8, elapsed=2.0, whole=[0.5], first=[0.1], between=[0.1])]
    states = {"a": Counter(committed=1), "b": Counter(committed=1, rejected=1)}
    found = import_figures(ImportPlan(OwnSystem(), rows=3), timings, timings * 2, 6.0, 2, states)
    assert found["rows"] == {
        "rows_per_second": 0.5,
        "killed_at": 2,
        "lost": 1,
        "repeated": 1,
        "states": {"committed": 2, "rejected": 1},
    }
    assert (found["ratio"], found["requests"]) == (1.0, 3 * 96)
