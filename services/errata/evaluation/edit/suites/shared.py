"""Suites for several methods that route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


# What the paper leaves open, or what its values do not fit here.
_VARIANTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "elder": {
        "as published, ε calibrated": {"epsilon": None},
        "the same, learning rate 1e-3": {"epsilon": None, "learning_rate": 1e-3},
        "the same, 8 experts": {"epsilon": None, "learning_rate": 1e-3, "num_experts": 8},
        "the same, 16 experts": {"epsilon": None, "learning_rate": 1e-3, "num_experts": 16},
        "the same, with replay": {
            "epsilon": None,
            "learning_rate": 1e-3,
            "num_experts": 16,
            "replay": "all",
        },
    }
}


def published(plan: Plan) -> list[Point]:
    """Our settings, the paper's, and these with what it leaves open."""
    preset = get_method(plan.method).presets["paper"]
    rows: dict[str, Mapping[str, Any]] = {"ours": {}, "as published": preset}
    for label, values in _VARIANTS.get(plan.method, {}).items():
        rows[label] = {**preset, **values}
    return [Point(label, values, plan.edits, plan.batch) for label, values in rows.items()]


def compaction(plan: Plan) -> list[Point]:
    """One row that is compacted after all edits."""
    number = min(_COMPACTED_EXPERTS[plan.method], plan.edits)
    label = f"compacted to {number} experts" if number else "compacted"
    return [Point(label, {}, plan.edits, plan.batch, compact=number)]
