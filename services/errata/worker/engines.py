"""Finds the engine that the settings name: the embedded one, or one that a package brings.

A package brings an engine by an entry point of the group `errata.engines`: an `EngineFactory`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from errata.editing.model.causal_lm import CausalLM
from errata.engine.contract import ServingEngine
from errata.engine.engine import Engine
from errata.engine.limits import EngineLimits
from errata.engine.serving_state import ServingState
from errata.errors import InvalidRequestError

EMBEDDED = "errata"
_GROUP = "errata.engines"

EngineFactory = Callable[[CausalLM, ServingState, EngineLimits, Mapping[str, str]], ServingEngine]
"""(the replica's model, the serving state that describes it, limits, options) → an engine."""


def engine_factory(name: str) -> EngineFactory:
    """What makes engines of one name.

    Raises:
        InvalidRequestError: no installed package brings such an engine.
    """
    if name == EMBEDDED:
        return _embedded
    found = {point.name: point for point in entry_points(group=_GROUP)}
    if name not in found:
        known = ", ".join(sorted({EMBEDDED, *found}))
        raise InvalidRequestError(
            f"worker.engine (ERRATA_WORKER__ENGINE): no engine is called {name!r}, only {known}; "
            f"install its package, such as errata-{name}, in the workers' environment.",
            field="engine",
        )
    factory: EngineFactory = found[name].load()
    return factory


def _embedded(
    model: CausalLM, state: ServingState, limits: EngineLimits, options: Mapping[str, str]
) -> ServingEngine:
    if options:
        raise InvalidRequestError(
            f"worker.engine_options (ERRATA_WORKER__ENGINE_OPTIONS): the embedded engine has no "
            f"options, such as {min(options)}; leave them out.",
            field="engine_options",
        )
    return Engine(model, state, limits)
