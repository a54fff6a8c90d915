"""Suites for LEMoE: its routing, order and experts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites.point import Point, grid

_STATEMENTS: Mapping[str, Any] = {
    "steps": 200,
    "num_contexts": 3,
    "num_rephrases": 8,
    "num_questions": 0,
}
"""Texts and steps of a fit whose points differ in the scope test: without one there is no question
to learn, so the others learn none either.
"""


def scope(plan: Plan) -> list[Point]:
    """No scope test, and each of them."""
    return [
        _stating(plan, f"scope {name}", {"scope": name})
        for name in ("off", "cosine", "idf", "retriever")
    ]


def routing(plan: Plan) -> list[Point]:
    """Anchored and literal routing, each with and without a scope test."""
    literal = {"routing": "literal"}
    return [
        _stating(plan, "anchored", {}),
        _stating(plan, "anchored, no scope test", {"scope": "off"}),
        _stating(plan, "literal, with the scope test", literal),
        _stating(plan, "literal, no scope test", {**literal, "scope": "off"}),
    ]


def _stating(plan: Plan, label: str, varied: Mapping[str, Any]) -> Point:
    """A point with `_STATEMENTS`, apart from what the plan or its preset fixes."""
    alike = {} if plan.preset else {k: v for k, v in _STATEMENTS.items() if k not in plan.values}
    return Point(label, {**alike, **varied}, plan.edits, plan.batch)


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
