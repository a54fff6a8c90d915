"""Edits of canaries in files and comparisons: only a canary that is open sets them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from errata_client import Canary, Edit

Ends = Mapping[str, int]
"""The canaries that have ended, and the positions of their ends."""


def ends_of(canaries: Iterable[Canary]) -> dict[str, int]:
    """Where canaries ended; those that are open are not among them."""
    return {each.name: each.ended_seq for each in canaries if each.ended_seq}


def in_open_canaries(edits: Iterable[Edit], ends: Callable[[], Ends]) -> Iterator[Edit]:
    """The edits, without the names of canaries that have ended.

    What was promoted is an edit like any other: so it is read again from a file, and so it is the
    same correction as one that never was in a canary.

    Args:
        edits: in any order.
        ends: asked once, and only if an edit has a canary.
    """
    known: Ends | None = None
    for edit in edits:
        if edit.spec.canary:
            known = ends() if known is None else known
            if edit.spec.canary in known:
                edit = replace(edit, spec=replace(edit.spec, canary=""))
        yield edit


def canary_at(edit: Edit, seq: int, ends: Ends) -> str:
    """The canary whose requests alone read an edit at a position; empty if all requests do."""
    return edit.spec.canary if ends.get(edit.spec.canary, seq + 1) > seq else ""
