"""Suites for LEMoE: its routing, order and experts."""

from __future__ import annotations

import math
from dataclasses import replace

from errata.editing.lemoe.config import LemoeConfig, new_lane
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites.point import Point, grid


def scope(plan: Plan) -> list[Point]:
    """No scope test, and each of them, with the same fits."""
    rows = grid(plan, {"scope": ("off", "cosine", "idf", "retriever")})
    return [replace(row, varied={**_same_fits(plan), **row.varied}) for row in rows]


def routing(plan: Plan) -> list[Point]:
    """Anchored and literal routing, each with and without a scope test, with the same fits."""
    literal = {"routing": "literal"}
    rows: dict[str, dict[str, str]] = {
        "anchored": {},
        "anchored, no scope test": {"scope": "off"},
        "literal, with the scope test": literal,
        "literal, no scope test": {**literal, "scope": "off"},
    }
    fits = _same_fits(plan)
    return [Point(name, {**fits, **row}, plan.edits, plan.batch) for name, row in rows.items()]


def _same_fits(plan: Plan) -> dict[str, object]:
    """Values that new lanes with and without a scope test do not share: those without one.

    A preset's lanes share all values, and the plan's own values go before these.
    """
    if plan.preset:
        return {}
    own = LemoeConfig.model_validate({**new_lane({"scope": "off"}), "scope": "off"}).model_dump()
    return {key: own[key] for key in new_lane({}) if key not in plan.values}


def order(plan: Plan) -> list[Point]:
    """Each order of edits."""
    return grid(plan, {"order": ("kmeans", "hierarchical", "log")})


def order_ungated(plan: Plan) -> list[Point]:
    """Each order of edits where nothing but the router chooses an expert."""
    return grid(plan, {"scope": ("off",), "order": ("kmeans", "hierarchical", "log")})


def expert_kinds(plan: Plan) -> list[Point]:
    """FFN experts, and LoRA experts of several ranks."""
    lora = grid(plan, {"expert": ("lora",), "rank": (4, 16, 32)})
    return [*grid(plan, {"expert": ("ffn",)}), *lora]


def expert_grid(plan: Plan) -> list[Point]:
    """LoRA ranks × experts × k; without a scope test, several experts can answer."""
    sizes = tuple(math.ceil(plan.edits / experts) for experts in (2, 5, 10))
    choices = {"scope": ("off",), "expert": ("lora",), "rank": (4, 16, 32)}
    return grid(plan, {**choices, "expert_edits": sizes, "top_k": (1, 2)})
