"""The figures of a load run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from errata.evaluation.serve.answers import Sample, count_mixed, count_stale, count_wrong
from errata.evaluation.serve.load_edits import EditTimings
from errata.evaluation.serve.load_plan import LoadPlan
from errata.evaluation.serve.plots import plot_load
from errata.evaluation.serve.report import suite_report


@dataclass(slots=True)
class LoadSlice:
    """The samples of one slice."""

    edited: bool
    samples: list[Sample]
    elapsed: float


def load_figures(plan: LoadPlan, slices: Sequence[LoadSlice], edits: EditTimings) -> dict[str, Any]:
    """JSON as `suite_report` describes it, plus figures of load runs; draws `load.png`."""
    samples = [sample for one in slices for sample in one.samples]
    answered = [sample for sample in samples if sample.answered]
    firsts = [(s.scheduled, s.first - s.scheduled) for s in answered if s.first is not None]
    answers = [(s.scheduled, s.ended - s.scheduled) for s in answered if s.ended is not None]
    rates = {edited: _tokens_per_second(slices, edited) for edited in (False, True)}
    plan.out.mkdir(parents=True, exist_ok=True)
    plot_load(plan.out / "load.png", answers, firsts, edits.commits)
    num_good = sum(_within_limits(plan, sample) for sample in answered)
    elapsed = sum(one.elapsed for one in slices)
    return suite_report(
        "load",
        ratio=rates[True] / rates[False] if rates[False] else None,
        ours=rates[True],
        baseline=rates[False],
        first=[took for _, took in firsts],
        between=[gap for sample in answered for gap in sample.between],
        whole=[took for _, took in answers],
        requests=len(samples),
        errors=sum(bool(sample.error) for sample in samples),
        stale_answers=count_stale(samples),
        mixed_version_answers=count_mixed(samples),
        edit_visible={"first": edits.first, "all": edits.all},
        errors_by_status=Counter(sample.error for sample in samples if sample.error),
        lost_requests=sum(sample.ended is None for sample in samples),
        wrong_after_edit=count_wrong(samples),
        read_your_writes_requests=sum(sample.min_seq > 0 for sample in samples),
        edits_committed=len(edits.all) + edits.late,
        edits_rejected=edits.rejected,
        edits_not_visible_in_time=edits.late,
        goodput_per_second=num_good / elapsed,
        answered_per_second=len(answered) / elapsed,
        replicas_seen=len({p.replica for s in samples for p in s.provenances}),
        parameters=_parameters(plan),
    )


def _within_limits(plan: LoadPlan, sample: Sample) -> bool:
    """Whether an answered request counts for goodput."""
    if sample.ended is None or sample.ended - sample.scheduled > plan.e2e_limit_ms / 1e3:
        return False
    return sample.first is None or sample.first - sample.scheduled <= plan.ttft_limit_ms / 1e3


def _parameters(plan: LoadPlan) -> dict[str, Any]:
    names = (
        *("api", "lane", "rate", "edit_rate", "seconds", "max_tokens"),
        *("ttft_limit_ms", "e2e_limit_ms", "seed"),
    )
    of_system = {name: getattr(plan.system, name) for name in ("replicas", "retrieval", "engine")}
    return {name: getattr(plan, name) for name in names} | of_system


def _tokens_per_second(slices: Sequence[LoadSlice], edited: bool) -> float:
    chosen = [one for one in slices if one.edited is edited]
    tokens = sum(sample.num_tokens for one in chosen for sample in one.samples if sample.answered)
    return tokens / sum(one.elapsed for one in chosen)
