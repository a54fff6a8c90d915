"""Decides over the namespaces that the prompts of a batch read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from errata.editing.lane.claims import NO_CLAIM, Claim
from errata.editing.lane.inventory import Inventory
from errata.editing.namespaces import DEFAULT, DEFAULT_ONLY, Readings

Decide = Callable[[str, Sequence[int]], Sequence[Claim]]
"""(namespace, numbers of the prompts that read it) → the claim of each of these, by its edits."""


def decide_over(inventory: Inventory, num: int, readings: Readings, decide: Decide) -> list[Claim]:
    """The best claim of each prompt over the namespaces that it reads.

    Each namespace is searched once, for all prompts that read it, and no other namespace is. Of
    equal scores, the newest edit wins, as within a namespace.

    Args:
        inventory: the edits.
        num: number of prompts.
        readings: of the prompts.
        decide: decides by the edits of one namespace.
    """
    if readings is None or all(reading == DEFAULT_ONLY for reading in readings):
        return list(decide(DEFAULT, range(num)))
    best: list[Claim] = [NO_CLAIM] * num
    for namespace, members in _members(inventory, readings).items():
        for number, claim in zip(members, decide(namespace, members), strict=True):
            best[number] = _better(inventory, best[number], claim)
    return best


def _members(inventory: Inventory, readings: Readings) -> dict[str, list[int]]:
    """Namespaces with edits → numbers of the prompts that read them."""
    found: dict[str, list[int]] = {}
    by_reading: dict[tuple[str, ...], list[str]] = {}
    for number, reading in enumerate(readings or ()):
        if reading not in by_reading:
            by_reading[reading] = inventory.read_by(reading)
        for namespace in by_reading[reading]:
            found.setdefault(namespace, []).append(number)
    return found


def _better(inventory: Inventory, a: Claim, b: Claim) -> Claim:
    """The claim with the higher score; of equal ones that of the newer edit."""
    if not a.edit or not b.edit or a.score != b.score:
        best = b if not a.edit or (b.edit and b.score > a.score) else a
    else:
        best = a if inventory.newest((a.edit, b.edit)) == a.edit else b
    return replace(best, cut=True) if (a.cut or b.cut) and not best.cut else best
