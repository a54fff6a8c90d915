"""Suites for several methods that route."""

from __future__ import annotations

from errata.editing.registry import get_method
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites.point import Point

_PLANES = {"recipe": "prompt plane", "elder": "code plane"}
_COMPACTED_EXPERTS = {
    "adaple": 0,
    "elder": 0,
    "lemoe": 5,
}  # 0 is the method's own number; the paper stops at 5


def tsne(plan: Plan) -> list[Point]:
    """One row that places the lane's vectors in a plane."""
    shown = _PLANES[plan.method]
    return [Point(f"{plan.edits} edits", {}, plan.edits, plan.batch, inspections=(shown,))]


def published(plan: Plan) -> list[Point]:
    """Our settings and the paper's."""
    preset = get_method(plan.method).presets["paper"]
    return [
        Point("ours", {}, plan.edits, plan.batch),
        Point("as published", dict(preset), plan.edits, plan.batch),
    ]


def compaction(plan: Plan) -> list[Point]:
    """One row that is compacted after all edits."""
    number = min(_COMPACTED_EXPERTS[plan.method], plan.edits)
    label = f"compacted to {number} experts" if number else "compacted"
    return [Point(label, {}, plan.edits, plan.batch, compact=number)]
