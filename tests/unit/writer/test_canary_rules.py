"""What replicas counted is added up, and what a rule says about it, at a given time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from errata.log.canary_entries import CanaryComparison, CanaryCounts, CanaryRule, Outcome
from errata.writer.canary_book import CanaryRecord
from errata.writer.canary_rules import decide
from errata.writer.canary_tally import CanaryReport, CanaryTally
from tests.unit.writer.test_ledger import TIME

NAME, SEQ = "canaries/trial", 7
OPEN = {NAME: SEQ}


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
    tally.note({}, [report("b", 4)])
    assert tally.of(NAME) is None
    tally.note({NAME: 90}, [report("b", 2, seq=90)])
    assert requests(tally) == (2, 0)


def canary(rule: CanaryRule | None, share_ppm: int = 1) -> CanaryRecord:
    return CanaryRecord(
        NAME,
        "lanes/facts",
        "",
        share_ppm,
        (),
        rule,
        "a comment",
        author="ann",
        opened_seq=SEQ,
        open_time=TIME,
        set_seq=SEQ,
        set_time=TIME + timedelta(hours=9),
        set_by="ann",
        audience_time=TIME,
    )


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
    decision = decide(canary(RULE), counted, LATE if late else SOON)
    assert (None if decision is None else decision.outcome) == outcome


def test_a_decision_says_the_figures() -> None:
    counted = CanaryComparison(SEQ, counts(200, 30), counts(1_800, 9))
    decision = decide(canary(RULE), counted, SOON)
    assert decision is not None
    assert decision.comment == (
        "by its rule: 30 of 200 requests (15.00%) in it failed, and 9 of 1,800 requests (0.50%) of "
        "the rest; the rule allows 5.00% more."
    )
    counted = CanaryComparison(SEQ, counts(200, 1), counts(1_800, 9))
    decision = decide(canary(RULE), counted, LATE)
    assert decision is not None
    assert decision.comment == (
        "by its rule: it had this audience for 3,600 s; 1 of 200 requests (0.50%) in it failed, "
        "and 9 of 1,800 requests (0.50%) of the rest."
    )


def test_without_a_rule_or_counts_or_a_time_nothing_is_decided() -> None:
    failing = CanaryComparison(SEQ, counts(200, 200), counts(0))
    fine = CanaryComparison(SEQ, counts(200), counts(0))
    assert decide(canary(None), failing, LATE) is None
    assert decide(canary(None, share_ppm=0), failing, LATE) is None
    assert decide(canary(RULE), None, LATE) is None
    assert decide(canary(CanaryRule(100, 0.05)), fine, LATE + timedelta(days=99)) is None
