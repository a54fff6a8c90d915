"""Compares which edits are in force at two positions, or in two deployments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from errata.bulk.trials import Ends, canary_at
from errata_client import Edit


@dataclass(frozen=True, slots=True)
class Difference:
    """What is in force on one side only.

    Attributes:
        kind: `added` if it is in force on the second side, `removed` if on the first.
        edit: which.
        canary: whose requests alone read it there; empty if all do.
    """

    kind: str
    edit: Edit
    canary: str = ""


def in_force_at(edit: Edit, seq: int) -> bool:
    """Whether an edit has an effect at a position of its log."""
    return 0 < edit.commit_seq <= seq and not 0 < edit.revert_seq <= seq


def between_positions(
    edits: Iterable[Edit], first: int, second: int, ends: Ends | None = None
) -> list[Difference]:
    """What was added and removed on the way from one position of a log to another.

    An edit that was promoted on the way is removed from its canary, and added for all requests.

    Args:
        edits: of the log.
        first: position.
        second: position.
        ends: of canaries.
    """
    found = []
    for edit in edits:
        before, after = (_readers_at(edit, seq, ends or {}) for seq in (first, second))
        if before == after:
            continue
        found += [Difference("removed", edit, before)] if before is not None else []
        found += [Difference("added", edit, after)] if after is not None else []
    return found


def _readers_at(edit: Edit, seq: int, ends: Ends) -> str | None:
    """The canary whose requests read an edit; empty if all do, None if it is not in force."""
    return canary_at(edit, seq, ends) if in_force_at(edit, seq) else None


def between_deployments(first: Iterable[Edit], second: Iterable[Edit]) -> list[Difference]:
    """The corrections in force in one of two deployments only, by lane and content.

    Edits of two logs have different names; they are the same correction if lane, namespace, open
    canary, prompt and target are equal.
    """
    one, other = _by_content(first), _by_content(second)
    removed = [_only("removed", edit) for key, edit in one.items() if key not in other]
    return removed + [_only("added", edit) for key, edit in other.items() if key not in one]


def _only(kind: str, edit: Edit) -> Difference:
    return Difference(kind, edit, edit.spec.canary)


def _by_content(edits: Iterable[Edit]) -> dict[tuple[object, ...], Edit]:
    return {
        (
            *(edit.lane, edit.spec.namespace, edit.spec.canary),
            *(edit.spec.prompt, edit.spec.target.strip()),
        ): edit
        for edit in edits
    }
