"""Suites for ELDER: its budget, losses, replay and scope test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from errata.editing.elder.allocation import capacity
from errata.editing.elder.config import ElderConfig
from errata.editing.registry import get_method
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites.general import attenuation
from errata.evaluation.edit.suites.point import Point, grid


def budget(plan: Plan) -> list[Point]:
    """Banks, layers, experts and ranks around the defaults, one at a time, if all edits fit."""
    values = get_method("elder").values(plan.preset, plan.values)
    own = ElderConfig.model_validate(values)
    sweeps = {
        "bank_edits": (0, 16, 32, 64),
        "num_layers": (1, 2, 4, 6, 8),
        "num_experts": (3, 4, 8, 16),
        "rank": (4, 8, 16, 32),
    }
    points = [point for key, values in sweeps.items() for point in grid(plan, {key: values})]

    def fits(varied: Mapping[str, Any]) -> bool:
        used = own.model_copy(update=dict(varied))
        room = capacity(used.num_layers, used.num_experts, used.top_k)
        return bool(used.bank_edits) or room >= plan.edits

    return [point for point in points if fits(point.varied)]


def losses(plan: Plan) -> list[Point]:
    """The guided loss, none, and the balancing loss."""
    return grid(plan, {"loss": ("guided", "none", "balanced")})


def replay(plan: Plan) -> list[Point]:
    """No replay, a reservoir, and the whole log, in one bank; a small one replays little."""
    preset = get_method(plan.method).presets["one-bank"]
    rows = grid(plan, {"replay": ("none", "reservoir", "all")})
    return [replace(row, varied={**preset, **row.varied}) for row in rows]


def scope(plan: Plan) -> list[Point]:
    """Each scope test."""
    return grid(plan, {"scope": ("codes", "cosine", "idf", "retriever")})


def false_claims(plan: Plan) -> list[Point]:
    """False claims as edits accumulate: the published rule, its calibration, and the others."""
    rows: dict[str, Mapping[str, Any]] = {
        "ε = 12, as published": dict(get_method(plan.method).presets["paper"]),
        "ε calibrated": {"scope": "codes", "epsilon": None},
        "cosine calibrated": {"scope": "cosine"},
        "learned gate": {"scope": "retriever"},
    }
    return [replace(attenuation(plan)[0], label=label, varied=row) for label, row in rows.items()]
