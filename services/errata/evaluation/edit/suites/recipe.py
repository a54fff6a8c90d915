"""Suites for RECIPE: claims, and variants of its prompts."""

from __future__ import annotations

from pathlib import Path

from errata.errors import InvalidRequestError
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites.point import Point, grid

_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def sentinel(plan: Plan) -> list[Point]:
    """The sentinel against fixed thresholds."""
    thresholds = {"claim": ("threshold",), "threshold": _THRESHOLDS}
    return [*grid(plan, {"claim": ("sentinel",)}), *grid(plan, thresholds)]


def prompt_tokens(plan: Plan) -> list[Point]:
    """A row for each lane model in the plan's folder, in the order of their numbers."""
    folder = plan.lane_model or Path()
    names = [path.name for path in folder.iterdir() if path.name.isdigit()]
    if not names:
        raise InvalidRequestError(
            f"{folder} has no lane models 1, 2, …; make them with `errata train recipe --set "
            "num_prompt=N --out DIR/N`.",
            field="lane_model",
        )
    return [
        Point(f"{name} prompt tokens", {}, plan.edits, plan.batch, lane_model=name)
        for name in sorted(names, key=int)
    ]


def words(plan: Plan) -> list[Point]:
    """Continuous prompts against the statement's own words."""
    return [
        Point("continuous prompts", {}, plan.edits, plan.batch),
        Point("the statement's words", {}, plan.edits, plan.batch, served="words"),
    ]


def leak(plan: Plan) -> list[Point]:
    """Queries without and with the target."""
    return [
        Point("asked with the prompt", {}, plan.edits, plan.batch),
        Point("asked with the target, too", {}, plan.edits, plan.batch, served="leak"),
    ]
