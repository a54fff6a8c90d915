"""What replicas counted is added up, and what a rule says about it, at a given time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from errata.log.canary_entries import CanaryComparison, CanaryCounts, CanaryRule, Outcome
from errata.writer.canary_book import CanaryRecord
from errata.writer.canary_rules import decide
from errata.writer.canary_tally import CanaryReport, CanaryTally
from tests.unit.writer.test_ledger import TIME

NAME, SEQ = "canaries/trial", 7


def canary(
    rule: CanaryRule | None = None, share_ppm: int = 1, opened_seq: int = SEQ
) -> CanaryRecord:
    return CanaryRecord(
        NAME,
        "lanes/facts",
        "",
        share_ppm,
        (),
        rule,
        "a comment",
        author="ann",
        opened_seq=opened_seq,
        open_time=TIME,
        set_seq=opened_seq,
        set_time=TIME + timedelta(hours=9),
        set_by="ann",
        audience_time=TIME,
    )


OPEN = [canary()]


def counts(requests: int, errors: int = 0) -> CanaryCounts:
    return CanaryCounts(requests, 1, 2, errors, 3, 4)


def report(replica: str, requests: int, rest: int = 0, seq: int = SEQ) -> CanaryReport:
    return CanaryReport(replica, {NAME: CanaryComparison(seq, counts(requests), counts(rest))})


def requests(tally: CanaryTally) -> tuple[int, int]:
    found = tally.of(NAME)
    assert found is not None
    return found.canary.requests, found.rest.requests


def test_replicas_are_added_up_and_their_newest_reports_count() -> None:
    tally = CanaryTally()
    assert tally.of(NAME) is None
    tally.note(OPEN, [report("a", 3, 10), report("b", 4, 20)])
    assert requests(tally) == (7, 30)
    tally.note(OPEN, [report("a", 5, 11), report("b", 4, 20)])
    assert requests(tally) == (9, 31)
    found = tally.of(NAME)
    assert found is not None
    assert (found.opened_seq, found.canary) == (SEQ, CanaryCounts(9, 2, 4, 0, 6, 8))


def test_what_a_replica_counted_before_it_went_stays() -> None:
    tally = CanaryTally()
    tally.note(OPEN, [report("a", 3), report("b", 4)])
    tally.note(OPEN, [report("b", 6)])
    assert requests(tally) == (9, 0)
    tally.note(OPEN, [report("a", 3), report("b", 6)])
    assert requests(tally) == (9, 0), "it was only silent"


def test_a_replica_that_two_log_services_list_counts_once() -> None:
    tally = CanaryTally()
    tally.note(OPEN, [report("a", 3)])
    for reports in ([report("a", 3), report("a", 8)], [report("a", 9), report("a", 3)]):
        tally.note(OPEN, reports)
    assert requests(tally) == (9, 0)
    tally.note(OPEN, [report("a", 3)])  # the log service with the newer report is away
    tally.note(OPEN, [report("a", 9), report("a", 3)])
    assert requests(tally) == (9, 0), "the older report is none of another process"


def test_counts_of_another_log_or_another_canary_are_left_out() -> None:
    tally = CanaryTally()
    tally.note(OPEN, [report("a", 3, seq=SEQ + 1), report("b", 4)])
    assert requests(tally) == (4, 0)
    tally.note([], [report("b", 4)])
    assert tally.of(NAME) is None
    tally.note([canary(opened_seq=90)], [report("b", 2, seq=90)])
    assert requests(tally) == (2, 0)


def test_requests_of_an_earlier_audience_are_not_recent() -> None:
    tally = CanaryTally()
    assert tally.recent_requests(NAME) == 0
    tally.note(OPEN, [report("a", 30), report("b", 5)])
    assert tally.recent_requests(NAME) == 35, "it never had another audience"
    for hours in (1, 2):
        grown = [replace(canary(), audience_time=TIME + timedelta(hours=hours))]
        tally.note(grown, [report("a", 40 * hours)])
        assert tally.recent_requests(NAME) == 0
        tally.note(grown, [report("a", 40 * hours + 7), report("b", 5 + 3 * hours)])
        assert tally.recent_requests(NAME) == 10
    assert requests(tally) == (98, 0), "roll-backs count all"
    tally.note(grown, [report("late", 100)])
    tally.note(grown, [report("late", 101)])
    assert tally.recent_requests(NAME) == 11, "nobody knows when it counted the others"
    tally.note([], [])
    assert tally.recent_requests(NAME) == 0


RULE = CanaryRule(100, 0.05, 3_600)
SOON, LATE = TIME + timedelta(seconds=3_599), TIME + timedelta(seconds=3_600)


@pytest.mark.parametrize(
    ("trial", "rest", "late", "outcome"),
    [
        (counts(99, 99), counts(0), True, None),
        (counts(100, 5), counts(0), False, None),
        (counts(100, 6), counts(0), False, Outcome.ROLLED_BACK),
        (counts(100, 6), counts(900, 9), False, None),  # .06 - .01 is not more than .05
        (counts(100, 7), counts(900, 9), False, Outcome.ROLLED_BACK),
        (counts(100, 7), counts(900, 9), True, Outcome.ROLLED_BACK),
        (counts(100, 0), counts(900, 900), False, None),
        (counts(100, 5), counts(0), True, Outcome.PROMOTED),
        (counts(99, 0), counts(900), True, None),
    ],
)
def test_a_rule_decides_once_there_were_requests_enough(
    trial: CanaryCounts, rest: CanaryCounts, late: bool, outcome: Outcome | None
) -> None:
    counted = CanaryComparison(SEQ, trial, rest)
    decision = decide(canary(RULE), counted, trial.requests, LATE if late else SOON)
    assert (None if decision is None else decision.outcome) == outcome


def test_a_promotion_needs_an_audience_and_requests_under_it() -> None:
    fine, failing = (CanaryComparison(SEQ, counts(200, n), counts(0)) for n in (0, 200))
    assert decide(canary(RULE, share_ppm=0), fine, 200, LATE) is None, "it is paused"
    assert decide(canary(RULE), fine, 99, LATE) is None
    for paused in (canary(RULE, share_ppm=0), canary(RULE)):
        decision = decide(paused, failing, 0, SOON)
        assert decision is not None
        assert decision.outcome is Outcome.ROLLED_BACK, "by all counts"
    readers = replace(canary(RULE, share_ppm=0), readers=("staff",))
    decision = decide(readers, fine, 100, LATE)
    assert decision is not None
    assert decision.outcome is Outcome.PROMOTED


def test_a_decision_says_the_figures() -> None:
    counted = CanaryComparison(SEQ, counts(200, 30), counts(1_800, 9))
    decision = decide(canary(RULE), counted, 200, SOON)
    assert decision is not None
    assert decision.comment == (
        "by its rule: 30 of 200 requests (15.00%) in it failed, and 9 of 1,800 requests (0.50%) of "
        "the rest; the rule allows 5.00% more."
    )
    counted = CanaryComparison(SEQ, counts(200, 1), counts(1_800, 9))
    decision = decide(canary(RULE), counted, 200, LATE)
    assert decision is not None
    assert decision.comment == (
        "by its rule: it had this audience for 3,600 s; 1 of 200 requests (0.50%) in it failed, "
        "and 9 of 1,800 requests (0.50%) of the rest."
    )


def test_without_a_rule_or_counts_or_a_time_nothing_is_decided() -> None:
    failing = CanaryComparison(SEQ, counts(200, 200), counts(0))
    fine = CanaryComparison(SEQ, counts(200), counts(0))
    assert decide(canary(None), failing, 200, LATE) is None
    assert decide(canary(None, share_ppm=0), failing, 200, LATE) is None
    assert decide(canary(RULE), None, 0, LATE) is None
    assert decide(canary(CanaryRule(100, 0.05)), fine, 200, LATE + timedelta(days=99)) is None
