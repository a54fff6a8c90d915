"""Bookkeeping as changes: it takes effect with an entry, and is never undone."""

from __future__ import annotations

from collections.abc import Callable

from errata.editing.lane.swap import Change
from errata.editing.model.weights import Swap, Undo


def recording(record: Callable[[], object]) -> Swap:
    """Wraps bookkeeping as a swap. Its undo does nothing: applied entries are never undone."""

    def apply() -> Undo:
        record()
        return lambda: None

    return apply


def recorded(record: Callable[[], object]) -> Change:
    """A change that is bookkeeping alone."""
    return Change(recording(record))
