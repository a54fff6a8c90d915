"""Suites for AdaPLE: its fusions, and their effect on updates."""

from __future__ import annotations

from typing import Any

from errata.evaluation.baselines import MEMIT, PMET, ROME
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites.point import Point, grid, label

_DROPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9)


def drop_rate(plan: Plan) -> list[Point]:
    """Drop-and-rescale at several rates."""
    return grid(plan, {"fusion": ("dr",), "drop": _DROPS})


def topk(plan: Plan) -> list[Point]:
    """Only the largest entries of each update, at several shares."""
    return grid(plan, {"fusion": ("topk",), "drop": (*_DROPS, 0.95, 0.99)})


def fusion(plan: Plan) -> list[Point]:
    """Every fusion at one rate; `average` is WiSE-FT's interpolation of the weights."""
    drop = plan.values.get("drop") or 0.8
    return [
        *grid(plan, {"fusion": ("none",), "drop": (0.0,)}),
        *grid(plan, {"fusion": ("topk", "dr"), "drop": (drop,)}),
        *grid(plan, {"fusion": ("average",), "drop": (0.5,)}),
    ]


def plug_in(plan: Plan) -> list[Point]:
    """MEMIT, PMET and single-layer editing (ROME), without and with drop-and-rescale (Figure 7)."""
    drop = plan.values.get("drop") or 0.8
    fusions: dict[str, dict[str, Any]] = {
        "": {"fusion": "none", "drop": 0.0},
        f", drop {drop}": {"fusion": "dr", "drop": drop},
    }
    methods = {"MEMIT": MEMIT, "PMET": PMET, "ROME": ROME}
    return [
        Point(f"{name}{suffix}", {**values, **fused}, plan.edits, plan.batch)
        for name, values in methods.items()
        for suffix, fused in fusions.items()
    ]


def similarity(plan: Plan) -> list[Point]:
    """One row that measures cosines between updates."""
    drop = plan.values.get("drop") or 0.8
    varied = {"fusion": "dr", "drop": drop}
    return [Point(label(varied), varied, plan.edits, plan.batch, inspections=("update cosines",))]
