"""Which runs a suite consists of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from errata.editing.elder.allocation import capacity
from errata.editing.elder.config import ElderConfig
from errata.editing.registry import get_method
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
        compact: experts that the lane is compacted to once all edits are in; 0 for the method's own
            number, None for no compaction.
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
    compact: int | None = None
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
    # LEMoE's batch mode: all of them in one expert.
    varied = {"expert_edits": plan.edits} if plan.method == "lemoe" else {}
    return [Point(f"{plan.edits} edits at once", varied, plan.edits, plan.edits)]


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


def _budget(plan: Plan) -> list[Point]:
    """Layers, experts and ranks around the defaults, one at a time, as far as all edits fit in."""
    own = ElderConfig.model_validate(dict(plan.values))
    sweeps = {"num_layers": (1, 2, 4, 6, 8), "num_experts": (3, 4, 8, 16), "rank": (4, 8, 16, 32)}
    points = [point for key, values in sweeps.items() for point in _grid(plan, {key: values})]

    def room(varied: Mapping[str, Any]) -> int:
        used = own.model_copy(update=dict(varied))
        return capacity(used.num_layers, used.num_experts, used.top_k)

    return [point for point in points if room(point.varied) >= plan.edits]


def _losses(plan: Plan) -> list[Point]:
    return _grid(plan, {"loss": ("guided", "none", "balanced")})


def _replay(plan: Plan) -> list[Point]:
    return _grid(plan, {"replay": ("none", "reservoir", "all")})


def _elder_scope(plan: Plan) -> list[Point]:
    return _grid(plan, {"scope": ("codes", "cosine", "idf", "retriever")})


def _lemoe_scope(plan: Plan) -> list[Point]:
    return _grid(plan, {"scope": ("off", "cosine", "idf", "retriever")})


def _published(plan: Plan) -> list[Point]:
    preset = get_method(plan.method).presets["paper"]
    return [
        Point("ours", {}, plan.edits, plan.batch),
        Point("as published", dict(preset), plan.edits, plan.batch),
    ]


def _false_claims(plan: Plan) -> list[Point]:
    """Who is claimed as edits go on: the published rule, its calibration, and the others."""
    rows: dict[str, Mapping[str, Any]] = {
        "ε = 12, as published": dict(get_method(plan.method).presets["paper"]),
        "ε calibrated": {"scope": "codes", "epsilon": None},
        "cosine calibrated": {"scope": "cosine"},
        "learned gate": {"scope": "retriever"},
    }
    return [replace(_attenuation(plan)[0], label=label, varied=row) for label, row in rows.items()]


def _routing(plan: Plan) -> list[Point]:
    literal = {"routing": "literal"}
    return [
        Point("anchored", {}, plan.edits, plan.batch),
        Point("anchored, no scope test", {"scope": "off"}, plan.edits, plan.batch),
        Point("literal, with the scope test", literal, plan.edits, plan.batch),
        Point("literal, no scope test", {**literal, "scope": "off"}, plan.edits, plan.batch),
    ]


def _order(plan: Plan) -> list[Point]:
    return _grid(plan, {"order": ("kmeans", "hierarchical", "log")})


def _compaction(plan: Plan) -> list[Point]:
    """The paper stops at five experts."""
    number = min(5, plan.edits) if plan.method == "lemoe" else 0
    label = f"compacted to {number} experts" if number else "compacted"
    return [Point(label, {}, plan.edits, plan.batch, compact=number)]


def _expert_kinds(plan: Plan) -> list[Point]:
    lora = _grid(plan, {"expert": ("lora",), "rank": (4, 16, 32)})
    return [*_grid(plan, {"expert": ("ffn",)}), *lora]


def _expert_grid(plan: Plan) -> list[Point]:
    """LoRA ranks × experts × k; several experts answer only where no scope test names one."""
    sizes = tuple(math.ceil(plan.edits / experts) for experts in (2, 5, 10))
    grid = {"scope": ("off",), "expert": ("lora",), "rank": (4, 16, 32)}
    return _grid(plan, {**grid, "expert_edits": sizes, "top_k": (1, 2)})


def _grid(plan: Plan, grid: Mapping[str, tuple[Any, ...]]) -> list[Point]:
    rows = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [Point(_label(row), row, plan.edits, plan.batch) for row in rows]


def _label(varied: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in varied.items())


_ADAPLE = ("adaple",)
_ELDER = ("elder",)
_LEMOE = ("lemoe",)
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
    "tsne": Suite("prompts or allocation codes in a plane", _tsne, methods=_RECIPE + _ELDER),
    "published": Suite("our settings against the paper's", _published, methods=_ELDER + _LEMOE),
    "budget": Suite("layers, experts and ranks", _budget, methods=_ELDER),
    "losses": Suite("guided, no and balancing loss", _losses, methods=_ELDER),
    "replay": Suite("no replay, a reservoir, the whole log", _replay, methods=_ELDER),
    "code-scope": Suite("codes, cosine, idf, learned gate", _elder_scope, methods=_ELDER),
    "false-claims": Suite("unrelated prompts that are claimed", _false_claims, methods=_ELDER),
    "expert-scope": Suite("no test, cosine, idf, learned gate", _lemoe_scope, methods=_LEMOE),
    "routing": Suite("anchored against literal routing", _routing, methods=_LEMOE),
    "order": Suite("order planning against log order", _order, methods=_LEMOE),
    "compaction": Suite("before and after a compaction", _compaction, methods=_ELDER + _LEMOE),
    "expert-kinds": Suite("FFN experts and LoRA ranks", _expert_kinds, methods=_LEMOE),
    "expert-grid": Suite("LoRA ranks × experts × top-k", _expert_grid, methods=_LEMOE),
}
