"""Suites for any method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites.point import Point, grid

_FEWEST_MEASURED = 30  # records of a point of `scaling`: a single edit is not enough
_NUM_CHECKPOINTS = 10
# What a method's batch mode sets: LEMoE fits all edits into one expert.
_ALL_AT_ONCE: Mapping[str, Callable[[Plan], Mapping[str, Any]]] = {
    "lemoe": lambda plan: {"expert_edits": plan.edits}
}


def sequential(plan: Plan) -> list[Point]:
    """One row: all edits, in order."""
    return [Point(f"{plan.edits} edits", {}, plan.edits, plan.batch)]


def batch(plan: Plan) -> list[Point]:
    """One row: all edits at once."""
    values_of = _ALL_AT_ONCE.get(plan.method)
    values = {} if values_of is None else values_of(plan)
    return [Point(f"{plan.edits} edits at once", values, plan.edits, plan.edits)]


def scaling(plan: Plan) -> list[Point]:
    """A row for each number of edits, each measured on enough records."""
    return [
        Point(
            f"{edits:,} edits", {}, edits, plan.batch, repeats=math.ceil(_FEWEST_MEASURED / edits)
        )
        for edits in plan.points
    ]


def ablation(plan: Plan) -> list[Point]:
    """A row for each point of the plan's grid."""
    return grid(plan, plan.vary)


def users(plan: Plan) -> list[Point]:
    """One row that also measures what users need beyond the papers."""
    return [Point(f"{plan.edits} edits", {}, plan.edits, plan.batch, users=True)]


def attenuation(plan: Plan) -> list[Point]:
    """One row that asks about all edits so far at up to ten checkpoints."""
    size = math.ceil(plan.edits / _NUM_CHECKPOINTS / plan.batch) * plan.batch
    checkpoints = (*range(size, plan.edits, size), plan.edits)
    return [Point(f"{plan.edits} edits", {}, plan.edits, plan.batch, checkpoints=checkpoints)]
