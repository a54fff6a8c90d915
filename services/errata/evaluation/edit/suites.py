"""Which runs a suite consists of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from errata.errors import InvalidRequestError
from errata.evaluation.edit.plan import Plan

_FEWEST_MEASURED = 30  # records of a point of `scaling`: a single edit says nothing
_NUM_CHECKPOINTS = 10
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_DROPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Point:
    """One row of a suite's results; it is run once for each seed.

    Attributes:
        label: for tables.
        varied: configuration values of this point, on top of the plan's.
        edits: that the model carries in the end.
        batch: edits that are submitted together.
        repeats: how often other edits are made from the unedited model, measured as one.
        checkpoints: numbers of edits at which all edits so far are asked about.
        similarity: whether cosines of updates are taken.
        lane_model: folder inside the plan's `lane_model`; empty for that one itself.
        served: the lane as it is, or another way to compare with (`systems.recipe_variants`).
        embedding: whether prompts and words are laid out in a plane.
    """

    label: str
    varied: Mapping[str, Any]
    edits: int
    batch: int
    repeats: int = 1
    checkpoints: tuple[int, ...] = ()
    similarity: bool = False
    lane_model: str = ""
    served: Literal["lane", "words", "leak"] = "lane"
    embedding: bool = False

    @property
    def num_records(self) -> int:
        """Records that a seed draws."""
        return self.edits * self.repeats


@dataclass(frozen=True, slots=True)
class Suite:
    """A kind of benchmark.

    Attributes:
        about: one line for `errata bench suites`.
        points: the plan's rows.
        headline: index of the row that stands for the whole run.
        methods: it is about; empty for all.
    """

    about: str
    points: Callable[[Plan], list[Point]]
    headline: int = 0
    methods: tuple[str, ...] = ()


def points_of(plan: Plan) -> list[Point]:
    """The rows of the plan's suite.

    Raises:
        InvalidRequestError: no such suite, one of another method, or a grid that it cannot use.
    """
    if plan.suite not in SUITES:
        raise InvalidRequestError(
            f"no suite is called {plan.suite!r}; choose one of {', '.join(SUITES)}.", field="suite"
        )
    suite = SUITES[plan.suite]
    if suite.methods and plan.method not in suite.methods:
        raise InvalidRequestError(
            f"suite {plan.suite} is about {' and '.join(suite.methods)}, not {plan.method}.",
            field="suite",
        )
    if bool(plan.vary) != (plan.suite == "ablation"):
        raise InvalidRequestError(
            "suite ablation needs --vary KEY=a,b,c, and no other suite takes it.", field="vary"
        )
    return suite.points(plan)


def _sequential(plan: Plan) -> list[Point]:
    return [Point(f"{plan.edits} edits", {}, plan.edits, plan.batch)]


def _batch(plan: Plan) -> list[Point]:
    return [Point(f"{plan.edits} edits at once", {}, plan.edits, plan.edits)]


def _scaling(plan: Plan) -> list[Point]:
    return [
        Point(
            f"{edits:,} edits", {}, edits, plan.batch, repeats=math.ceil(_FEWEST_MEASURED / edits)
        )
        for edits in plan.points
    ]


def _ablation(plan: Plan) -> list[Point]:
    return _grid(plan, plan.vary)


def _attenuation(plan: Plan) -> list[Point]:
    size = math.ceil(plan.edits / _NUM_CHECKPOINTS / plan.batch) * plan.batch
    checkpoints = (*range(size, plan.edits, size), plan.edits)
    return [Point(f"{plan.edits} edits", {}, plan.edits, plan.batch, checkpoints=checkpoints)]


def _drop_rate(plan: Plan) -> list[Point]:
    return _grid(plan, {"fusion": ("dr",), "drop": _DROPS})


def _topk(plan: Plan) -> list[Point]:
    return _grid(plan, {"fusion": ("topk",), "drop": (*_DROPS, 0.95, 0.99)})


def _fusion(plan: Plan) -> list[Point]:
    drop = plan.values.get("drop") or 0.8
    return [
        *_grid(plan, {"fusion": ("none",), "drop": (0.0,)}),
        *_grid(plan, {"fusion": ("topk", "dr"), "drop": (drop,)}),
        *_grid(plan, {"fusion": ("average",), "drop": (0.5,)}),
    ]


def _similarity(plan: Plan) -> list[Point]:
    drop = plan.values.get("drop") or 0.8
    varied = {"fusion": "dr", "drop": drop}
    return [Point(_label(varied), varied, plan.edits, plan.batch, similarity=True)]


def _sentinel(plan: Plan) -> list[Point]:
    thresholds = {"claim": ("threshold",), "threshold": _THRESHOLDS}
    return [*_grid(plan, {"claim": ("sentinel",)}), *_grid(plan, thresholds)]


def _prompt_tokens(plan: Plan) -> list[Point]:
    """One row for each lane model in the plan's folder, in the order of their numbers."""
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


def _words(plan: Plan) -> list[Point]:
    return [
        Point("continuous prompts", {}, plan.edits, plan.batch),
        Point("the statement's words", {}, plan.edits, plan.batch, served="words"),
    ]


def _leak(plan: Plan) -> list[Point]:
    return [
        Point("asked with the prompt", {}, plan.edits, plan.batch),
        Point("asked with the target, too", {}, plan.edits, plan.batch, served="leak"),
    ]


def _tsne(plan: Plan) -> list[Point]:
    return [Point(f"{plan.edits} edits", {}, plan.edits, plan.batch, embedding=True)]


def _grid(plan: Plan, grid: Mapping[str, tuple[Any, ...]]) -> list[Point]:
    rows = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [Point(_label(row), row, plan.edits, plan.batch) for row in rows]


def _label(varied: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in varied.items())


_ADAPLE = ("adaple",)
_RECIPE = ("recipe",)
SUITES: Mapping[str, Suite] = {
    "sequential": Suite("edits in order, asked after each batch and after the last", _sequential),
    "batch": Suite("all edits at once", _batch),
    "scaling": Suite("from one edit to many, each time from the unedited model", _scaling, -1),
    "ablation": Suite("a grid over configuration keys", _ablation),
    "attenuation": Suite("the first and all edits so far, as edits go on", _attenuation),
    "drop-rate": Suite("drop-and-rescale at several drop rates", _drop_rate, methods=_ADAPLE),
    "topk": Suite("only the largest entries of each update", _topk, methods=_ADAPLE),
    "fusion": Suite("none, top-k, drop-and-rescale, average", _fusion, methods=_ADAPLE),
    "similarity": Suite("cosines of updates, before and after", _similarity, methods=_ADAPLE),
    "sentinel": Suite("the sentinel against fixed thresholds", _sentinel, methods=_RECIPE),
    "prompt-tokens": Suite("lane models DIR/1, DIR/2, …", _prompt_tokens, methods=_RECIPE),
    "words": Suite("continuous prompts against the statement's words", _words, methods=_RECIPE),
    "leak": Suite("with the answer in the query, as published", _leak, methods=_RECIPE),
    "tsne": Suite("prompts among the LLM's word embeddings", _tsne, methods=_RECIPE),
}
