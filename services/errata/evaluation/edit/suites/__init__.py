"""The runs of each suite.

| module | suites |
|---|---|
| `general` | for any method |
| `adaple`, `recipe`, `elder`, `lemoe` | for one method |
| `shared` | for several methods that route |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from errata.errors import InvalidRequestError
from errata.evaluation.edit.plan import Plan
from errata.evaluation.edit.suites import adaple, elder, general, lemoe, recipe, shared
from errata.evaluation.edit.suites.point import EditSuite, Point

__all__ = ["SUITES", "EditSuite", "Point", "points_of"]

_adaple = partial(EditSuite, methods=("adaple",))
_recipe = partial(EditSuite, methods=("recipe",))
_elder = partial(EditSuite, methods=("elder",))
_lemoe = partial(EditSuite, methods=("lemoe",))
_expert_methods = partial(EditSuite, methods=("elder", "lemoe"))
_ALWAYS_INSPECTED: Mapping[str, tuple[str, ...]] = {"lemoe": ("experts",)}
SUITES: Mapping[str, EditSuite] = {
    "sequential": EditSuite(
        "edits in order, asked after each batch and after the last", general.sequential
    ),
    "batch": EditSuite("all edits at once", general.batch),
    "scaling": EditSuite(
        "from one edit to many, each time from the unedited model", general.scaling, -1
    ),
    "ablation": EditSuite("a grid over configuration keys", general.ablation),
    "attenuation": EditSuite("the first and all edits so far, as edits go on", general.attenuation),
    "users": EditSuite(
        "facts that change back, long answers, unlearning, second facts", general.users
    ),
    "drop-rate": _adaple("drop-and-rescale at several drop rates", adaple.drop_rate),
    "topk": _adaple("only the largest entries of each update", adaple.topk),
    "fusion": _adaple("none, top-k, drop-and-rescale, average", adaple.fusion),
    "similarity": _adaple("cosines of updates, before and after", adaple.similarity),
    "sentinel": _recipe("the sentinel against fixed thresholds", recipe.sentinel),
    "prompt-tokens": _recipe("lane models DIR/1, DIR/2, …", recipe.prompt_tokens),
    "words": _recipe("continuous prompts against the statement's words", recipe.words),
    "leak": _recipe("with the answer in the query, as published", recipe.leak),
    "tsne": EditSuite(
        "prompts or allocation codes in a plane", shared.tsne, methods=("recipe", "elder")
    ),
    "published": _expert_methods("our settings against the paper's", shared.published),
    "budget": _elder("layers, experts and ranks", elder.budget),
    "losses": _elder("guided, no and balancing loss", elder.losses),
    "replay": _elder("no replay, a reservoir, the whole log", elder.replay),
    "code-scope": _elder("codes, cosine, idf, learned gate", elder.scope),
    "false-claims": _elder("unrelated prompts that are claimed", elder.false_claims),
    "expert-scope": _lemoe("no test, cosine, idf, learned gate", lemoe.scope),
    "routing": _lemoe("anchored against literal routing", lemoe.routing),
    "order": _lemoe("order planning against log order", lemoe.order),
    "order-ungated": _lemoe("the same without a scope test", lemoe.order_ungated),
    "compaction": _expert_methods("before and after a compaction", shared.compaction),
    "expert-kinds": _lemoe("FFN experts and LoRA ranks", lemoe.expert_kinds),
    "expert-grid": _lemoe("LoRA ranks × experts × top-k", lemoe.expert_grid),
}


def points_of(plan: Plan) -> list[Point]:
    """The rows of the plan's suite.

    Raises:
        InvalidRequestError: no such suite, a suite for another method, or a grid that the suite
            does not use.
    """
    if plan.suite not in SUITES:
        raise InvalidRequestError(
            f"no suite is called {plan.suite!r}; choose one of {', '.join(SUITES)}.", field="suite"
        )
    suite = SUITES[plan.suite]
    if suite.methods and plan.method not in suite.methods:
        raise InvalidRequestError(
            f"suite {plan.suite} is for {' and '.join(suite.methods)}, not for {plan.method}.",
            field="suite",
        )
    if bool(plan.vary) != (plan.suite == "ablation"):
        raise InvalidRequestError(
            "suite ablation needs --vary KEY=a,b,c; no other suite accepts it.", field="vary"
        )
    always = _ALWAYS_INSPECTED.get(plan.method, ())
    return [
        replace(point, inspections=(*always, *point.inspections)) for point in suite.points(plan)
    ]
