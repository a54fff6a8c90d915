"""Suites for LEMoE: its routing, order and experts."""

from __future__ import annotations

import math

from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites.point import Point, grid


def scope(plan: Plan) -> list[Point]:
    """No scope test, and each of them."""
    return grid(plan, {"scope": ("off", "cosine", "idf", "retriever")})


def routing(plan: Plan) -> list[Point]:
    """Anchored and literal routing, each with and without a scope test."""
    literal = {"routing": "literal"}
    return [
        Point("anchored", {}, plan.edits, plan.batch),
        Point("anchored, no scope test", {"scope": "off"}, plan.edits, plan.batch),
        Point("literal, with the scope test", literal, plan.edits, plan.batch),
        Point("literal, no scope test", {**literal, "scope": "off"}, plan.edits, plan.batch),
    ]


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
