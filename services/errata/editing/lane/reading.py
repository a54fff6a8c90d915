"""Decides over the namespaces that the prompts of a batch read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from errata.editing.lane.claims import NO_CLAIM, Claim
from errata.editing.lane.inventory import Inventory
from errata.editing.namespaces import DEFAULT, DEFAULT_ONLY, Readings

Decide = Callable[[str, Sequence[int], frozenset[str]], Sequence[Claim]]
"""(namespace, numbers of the prompts that read it, its edits that claim none of them) → the claim
of each of these prompts, by the namespace's other edits."""
NONE_HIDDEN: frozenset[str] = frozenset()


def decide_over(inventory: Inventory, num: int, readings: Readings, decide: Decide) -> list[Claim]:
    """The best claim of each prompt over the namespaces that it reads.

    Each namespace is searched once, for all prompts that read it, and no other namespace is. Of
    equal scores, the newest edit wins, as within a namespace. A canary's place is a namespace here;
    of a fact that its edits and those of its namespace are about, only the newest edit claims
    prompts that read both, as it will once the canary is promoted.

    Args:
        inventory: the edits.
        num: number of prompts.
        readings: of the prompts.
        decide: decides by the edits of one namespace.
    """
    if readings is None or all(reading == DEFAULT_ONLY for reading in readings):
        return list(decide(DEFAULT, range(num), NONE_HIDDEN))
    best: list[Claim] = [NO_CLAIM] * num
    for (namespace, hidden), members in _members(inventory, readings).items():
        for number, claim in zip(members, decide(namespace, members, hidden), strict=True):
            best[number] = _better(inventory, best[number], claim)
    return best


_Search = tuple[str, frozenset[str]]
"""A namespace with edits, and those of its edits that are hidden from a prompt."""


def _members(inventory: Inventory, readings: Readings) -> dict[_Search, list[int]]:
    """Searches → numbers of the prompts that need them."""
    found: dict[_Search, list[int]] = {}
    by_reading: dict[tuple[str, ...], list[_Search]] = {}
    for number, reading in enumerate(readings or ()):
        if reading not in by_reading:
            names = inventory.read_by(reading)
            hidden = inventory.superseded_among(tuple(names))
            by_reading[reading] = [(name, hidden.get(name, NONE_HIDDEN)) for name in names]
        for search in by_reading[reading]:
            found.setdefault(search, []).append(number)
    return found


def _better(inventory: Inventory, a: Claim, b: Claim) -> Claim:
    """The claim with the higher score; of equal ones that of the newer edit."""
    if not a.edit or not b.edit or a.score != b.score:
        best = b if not a.edit or (b.edit and b.score > a.score) else a
    else:
        best = a if inventory.newest((a.edit, b.edit)) == a.edit else b
    return replace(best, cut=True) if (a.cut or b.cut) and not best.cut else best
