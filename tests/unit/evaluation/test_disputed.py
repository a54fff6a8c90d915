"""Figures of the records that no other record contradicts."""

from __future__ import annotations

import pytest

from errata.evaluation.data.record import Record
from errata.evaluation.edit.disputed import undisputed
from errata.evaluation.judge import Answers
from errata.evaluation.systems import Scored

RECORDS = [
    Record("0", "Lyon is in", "Lyon", "Italy", None, rephrases=("Lyon lies in",)),
    Record("1", "Lyon is a town of", "lyon", "Chile", None, rephrases=("Lyon is part of",)),
    Record("2", "Pisa is in", "Pisa", "Chile", None, rephrases=("Pisa lies in",)),
    Record("3", "Pisa is a town of", "Pisa", "Chile", None, rephrases=("Pisa is part of",)),
    Record("4", "Some plant grows in", "", "Peru", None),
    Record("5", "Some animal lives in", "", "Cuba", None, rephrases=("An animal lives in",)),
]


def _answers(new: bool, rephrase: bool | None) -> Answers:
    """Answers of two tokens, of which the second is right or not."""
    scored = [Scored((1, 2), (1, 2 if said else 3), (0.0, 0.0)) for said in (new, bool(rephrase))]
    return Answers(scored[0], None, () if rephrase is None else (scored[1],), (), (), (), {})


def test_subjects_with_two_new_answers_do_not_count() -> None:
    now = [
        _answers(new, rephrase)
        for new, rephrase in (
            (True, False), (True, False), (True, True), (False, True), (True, None), (True, False),
        )
    ]  # fmt: skip
    found = undisputed(RECORDS, now, now)
    assert found.means == {
        "undisputed.records": pytest.approx(4 / 6),
        "undisputed.reliability.token": pytest.approx(3.5 / 4),
        "undisputed.reliability.exact": pytest.approx(3 / 4),
        "undisputed.generality.token": pytest.approx(2.5 / 3),
        "undisputed.generality.exact": pytest.approx(2 / 3),
    }
    assert found.half_widths.keys() == found.means.keys() - {"undisputed.records"}


def test_without_undisputed_records_there_is_only_their_share() -> None:
    now = [_answers(True, True)] * 2
    assert undisputed(RECORDS[:2], now, now).means == {"undisputed.records": 0.0}
