"""Which pending edits are fitted together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256

from errata.editing.edit import Edit
from errata.editing.lane.contract import Ordering
from errata.editing.lane.inventory import fact_of

_MOST_BATCHES = 16  # that a window is parted into; planning must not take longer than fitting


def seed_of(lane_config_digest: str, edits: Sequence[Edit]) -> int:
    """The seed of a fit or of a plan, from what the log carries: the same edits, the same seed.

    It depends on what the edits say and not on where they stand in the log, so that a run can be
    repeated on another log.

    Returns:
        63 bits.
    """
    facts = [[edit.prompt, edit.target, edit.subject] for edit in edits]
    text = json.dumps([lane_config_digest, facts])
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


def next_batch(
    pending: Iterable[tuple[str, Edit]], lane: str, max_edits: int, alone: frozenset[str]
) -> list[Edit]:
    """The oldest edits of a lane that may be fitted together.

    A batch ends before an edit whose prompt or subject was met already, in whatever lane: two
    answers to the same question must be written one after the other, in log order.

    Args:
        pending: lane and edit, in log order.
        lane: whose edits.
        max_edits: length limit.
        alone: edits that failed in company and are fitted by themselves.
    """
    batch: list[Edit] = []
    seen: set[tuple[str, str]] = set()
    for other, edit in pending:
        keys = _keys(edit)
        if other == lane:
            if seen & keys or (batch and edit.name in alone):
                break
            batch.append(edit)
            if edit.name in alone or len(batch) == max_edits:
                break
        seen |= keys
    return batch


def window(pending: Iterable[tuple[str, Edit]], lane: str, alone: frozenset[str]) -> list[Edit]:
    """All edits of a lane that may be fitted now, in whatever order and company.

    An edit whose prompt or subject was met already waits for the earlier one. If the first one has
    failed in company, it is the only one.

    Args:
        pending: lane and edit, in log order.
        lane: whose edits.
        alone: edits that failed in company and are fitted by themselves.
    """
    found: list[Edit] = []
    seen: set[tuple[str, str]] = set()
    for other, edit in pending:
        keys = _keys(edit)
        if other == lane and not seen & keys:
            if edit.name in alone and not found:
                return [edit]
            if edit.name not in alone:
                found.append(edit)
        seen |= keys
    return found


def planned_batch(ordering: Ordering, config_digest: str, edits: Sequence[Edit]) -> list[Edit]:
    """The batch that has the oldest edit in it, as the method parts a window.

    Args:
        ordering: of the lane.
        config_digest: of the lane.
        edits: a window; at least one.
    """
    edits = edits[: _MOST_BATCHES * ordering.size]
    batches = ordering.plan(edits, seed_of(config_digest, edits))
    chosen = next(batch for batch in batches if 0 in batch)
    return [edits[number] for number in chosen]


def _keys(edit: Edit) -> set[tuple[str, str]]:
    return {("fact", fact_of(edit.prompt)), ("subject", edit.subject)}
