"""The editing methods that Errata offers; the only place that names them all."""

from __future__ import annotations

from errata.editing import adaple, elder, lemoe, recipe
from errata.editing.lane.method import Method
from errata.errors import InvalidRequestError

_METHODS: tuple[Method, ...] = (adaple.METHOD, recipe.METHOD, elder.METHOD, lemoe.METHOD)


def methods() -> dict[str, Method]:
    """All methods by name."""
    return {method.name: method for method in _METHODS}


def get_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        InvalidRequestError: the method does not exist; the message lists those that do.
    """
    known = methods()
    if name not in known:
        raise InvalidRequestError(
            f"no editing method is called {name!r}; choose one of {', '.join(sorted(known))}.",
            field="method",
            method=name,
        )
    return known[name]
