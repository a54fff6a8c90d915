"""Compares which edits are in force at two positions, or in two deployments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from errata_client import Edit


@dataclass(frozen=True, slots=True)
class Difference:
    """What is in force on one side only.

    Attributes:
        kind: `added` if it is in force on the second side, `removed` if on the first.
        edit: which.
    """

    kind: str
    edit: Edit


def in_force_at(edit: Edit, seq: int) -> bool:
    """Whether an edit has an effect at a position of its log."""
    return 0 < edit.commit_seq <= seq and not 0 < edit.revert_seq <= seq


def between_positions(edits: Iterable[Edit], first: int, second: int) -> list[Difference]:
    """What was added and removed on the way from one position of a log to another."""
    found = []
    for edit in edits:
        before, after = in_force_at(edit, first), in_force_at(edit, second)
        if before != after:
            found.append(Difference("added" if after else "removed", edit))
    return found


def between_deployments(first: Iterable[Edit], second: Iterable[Edit]) -> list[Difference]:
    """The corrections in force in one of two deployments only, by lane and content.

    Edits of two logs have different names; they are the same correction if lane, namespace, prompt
    and target are equal.
    """
    one, other = _by_content(first), _by_content(second)
    removed = [Difference("removed", edit) for key, edit in one.items() if key not in other]
    return removed + [Difference("added", edit) for key, edit in other.items() if key not in one]


def _by_content(edits: Iterable[Edit]) -> dict[tuple[object, ...], Edit]:
    return {
        (edit.lane, edit.spec.namespace, edit.spec.prompt, edit.spec.target.strip()): edit
        for edit in edits
    }
