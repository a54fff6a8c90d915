"""Which pending edits are fitted together."""

from __future__ import annotations

from collections.abc import Iterable

from errata.editing.edit import Edit


def next_batch(
    pending: Iterable[tuple[str, Edit]], max_edits: int, alone: frozenset[str]
) -> list[Edit]:
    """The oldest edits of one lane that may be fitted together.

    A batch ends before an edit whose prompt or subject was met already, in whatever lane: two
    answers to the same question must be written one after the other, in log order.

    Args:
        pending: lane and edit, in log order.
        max_edits: length limit.
        alone: edits that failed in company and are fitted by themselves.
    """
    batch: list[Edit] = []
    batch_lane = ""
    seen: set[tuple[str, str]] = set()
    for lane, edit in pending:
        keys = {("prompt", edit.prompt), ("subject", edit.subject)}
        if batch and lane != batch_lane:
            seen |= keys
            continue
        if batch and (edit.name in alone or seen & keys):
            break
        batch.append(edit)
        batch_lane = lane
        seen |= keys
        if edit.name in alone or len(batch) == max_edits:
            break
    return batch
