"""Windows of pending edits: when they are due, and which edits form a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import cast

import pytest

from errata.editing.adaple import METHOD
from errata.editing.edit import Edit
from errata.editing.lane.contract import Lane, Ordering
from errata.log.entries import LaneConfigured
from errata.replica.open_lane import OpenLane
from errata.writer.batching import next_batch, planned_batch, window
from errata.writer.ledger import EditLedger
from errata.writer.schedule import Due, next_fit
from tests.unit.writer.test_ledger import TIME, _edit, _request

ORDERING = Ordering(
    size=3,
    max_wait_seconds=5.0,
    # Odd and even edits apart, so that a batch is not just the oldest edits.
    plan=lambda edits, seed: [list(range(start, len(edits), 2)) for start in (1, 0)],
)


@dataclass
class Scheduled:
    """A lane, as far as scheduling reads it."""

    ordering: Ordering | None


def _lane(name: str, ordering: Ordering | None) -> OpenLane:
    configured = LaneConfigured(name, "adaple", "{}", "c", "m")
    return OpenLane(configured, METHOD.capabilities, cast(Lane, Scheduled(ordering)))


LANES = {"lanes/main": _lane("lanes/main", None), "lanes/slow": _lane("lanes/slow", ORDERING)}


def _due(ledger: EditLedger, seconds: float, alone: frozenset[str] = frozenset()) -> Due:
    return next_fit(ledger, LANES, 10, alone, TIME + timedelta(seconds=seconds))


def _names(due: Due) -> list[str]:
    return [record.edit.name for record in due.records]


async def test_a_window_is_due_when_it_is_full_or_has_waited_long_enough() -> None:
    ledger = EditLedger()
    await ledger.fold([_request(1, _edit("edits/1-0"), _edit("edits/1-1"), lane="lanes/slow")])
    waiting = _due(ledger, 2.0)
    assert (_names(waiting), waiting.wait_seconds) == ([], pytest.approx(3.0))
    assert _names(_due(ledger, 5.0)) == ["edits/1-0", "edits/1-1"]
    assert _names(_due(ledger, 2.0, frozenset({"edits/1-0"}))) == ["edits/1-0"], "it has waited"
    await ledger.fold([_request(2, _edit("edits/2-0"), lane="lanes/slow")])
    assert _names(_due(ledger, 2.0)) == ["edits/1-0", "edits/1-1", "edits/2-0"]


async def test_a_lane_that_gathers_a_window_does_not_delay_other_lanes() -> None:
    ledger = EditLedger()
    await ledger.fold(
        [
            _request(1, _edit("edits/1-0", "France"), lane="lanes/slow"),
            _request(2, _edit("edits/2-0"), _edit("edits/2-1", "France")),
        ]
    )
    assert _names(_due(ledger, 1.0)) == ["edits/2-0"], "edits of one prompt keep their order"
    assert _names(_due(ledger, 6.0)) == ["edits/1-0"], "the oldest goes first once it is due"


async def test_nothing_is_due_without_pending_edits() -> None:
    assert _due(EditLedger(), 0.0) == Due((), 0.0)


def test_the_batch_with_the_oldest_edit_is_fitted() -> None:
    edits = [_edit(f"edits/1-{n}", f"S{n}") for n in range(5)]
    batch = planned_batch(ORDERING, "c", edits)
    assert [edit.name for edit in batch] == ["edits/1-0", "edits/1-2", "edits/1-4"]


def test_a_window_contains_every_prompt_once() -> None:
    def named(*edits: Edit) -> list[tuple[str, Edit]]:
        return [("lanes/slow", edit) for edit in edits]

    first, same = _edit("edits/1-0", "France"), _edit("edits/1-1", "France")
    other, failed = _edit("edits/1-2", "Spain"), _edit("edits/1-3", "Italy")
    pending = named(first, same, other, failed)
    alone = frozenset({"edits/1-3"})
    assert window(pending, "lanes/slow", alone) == [first, other]
    assert window(named(failed, first), "lanes/slow", alone) == [failed]
    spaced = replace(first, name="edits/1-4", prompt=f"{first.prompt} ", subject="the capital")
    assert window(named(first, spaced), "lanes/slow", frozenset()) == [first], (
        "spaces do not change the question"
    )
    elsewhere = [("lanes/main", first), *named(same, other)]
    assert window(elsewhere, "lanes/slow", frozenset()) == [other]
    assert next_batch(elsewhere, "lanes/slow", 10, frozenset()) == []
