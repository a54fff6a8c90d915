"""Chooses the pending edits that are fitted together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256

from errata.editing.edit import Edit
from errata.editing.lane.contract import Ordering
from errata.editing.lane.inventory import fact_of
from errata.editing.namespaces import own_namespace

_MAX_BATCHES = 16  # of one window: planning must not take longer than fitting


def seed_of(lane_config_digest: str, edits: Sequence[Edit]) -> int:
    """The seed of a fit or of a plan: the same edits in the same lane give the same seed.

    It depends on the edits' content and not on their positions in the log, so that a run can be
    repeated on another log.

    Returns:
        63 bits.
    """
    facts = [[edit.said, edit.target, edit.subject] for edit in edits]
    text = json.dumps([lane_config_digest, facts])
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


def next_batch(
    pending: Iterable[tuple[str, Edit]], lane: str, max_edits: int, alone: frozenset[str]
) -> list[Edit]:
    """The oldest edits of a lane that can be fitted together.

    A batch has the edits of one namespace or canary, that of its oldest edit: what edits learn
    together must not cross. Edits of others wait for batches of their own.

    A batch ends before an edit whose prompt or subject occurs in an earlier pending edit, of any
    lane and also in a canary: two answers to the same question must be written one after the other,
    in log order.

    Args:
        pending: lane and edit, in log order.
        lane: whose edits to take.
        max_edits: limits the batch.
        alone: edits that failed in a batch and are retried individually.
    """
    batch: list[Edit] = []
    seen: set[tuple[str, str, str]] = set()
    for other, edit in pending:
        keys = _keys(edit)
        if other == lane:
            if batch and edit.namespace != batch[0].namespace:
                seen |= keys
                continue
            if seen & keys or (batch and edit.name in alone):
                break
            batch.append(edit)
            if edit.name in alone or len(batch) == max_edits:
                break
        seen |= keys
    return batch


def window(pending: Iterable[tuple[str, Edit]], lane: str, alone: frozenset[str]) -> list[Edit]:
    """All edits of a lane and a namespace, or canary, that can be fitted now, in any order.

    The namespace or canary is that of the oldest edit that can be fitted. An edit whose prompt or
    subject occurs in an earlier pending edit waits for that edit. If the first edit failed in a
    batch before, the window contains nothing else.

    Args:
        pending: lane and edit, in log order.
        lane: whose edits to take.
        alone: edits that failed in a batch and are retried individually.
    """
    found: list[Edit] = []
    seen: set[tuple[str, str, str]] = set()
    for other, edit in pending:
        keys = _keys(edit)
        if other == lane and not seen & keys:
            if edit.name in alone and not found:
                return [edit]
            is_same = not found or edit.namespace == found[0].namespace
            if edit.name not in alone and is_same:
                found.append(edit)
        seen |= keys
    return found


def planned_batch(ordering: Ordering, config_digest: str, edits: Sequence[Edit]) -> list[Edit]:
    """The batch with the oldest edit, when the lane divides a window into batches.

    Args:
        ordering: of the lane.
        config_digest: of the lane.
        edits: a window; at least one.
    """
    edits = edits[: _MAX_BATCHES * ordering.size]
    batches = ordering.plan(edits, seed_of(config_digest, edits))
    chosen = next(batch for batch in batches if 0 in batch)
    return [edits[number] for number in chosen]


def _keys(edit: Edit) -> set[tuple[str, str, str]]:
    namespace = own_namespace(edit.namespace)
    return {("fact", namespace, fact_of(edit.said)), ("subject", namespace, edit.subject)}
