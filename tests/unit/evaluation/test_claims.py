"""Which edit claims each prompt, and which prompts can be claimed."""

from __future__ import annotations

import pytest

from errata.evaluation.data.record import Record
from errata.evaluation.edit.claims import RecordClaims, claim_figures

RECORDS = [
    Record(
        "0", "Lyon is in", "Lyon", "Italy", "France",
        rephrases=("Where is Lyon? In",),
        locality=(("Pisa is in", "Italy"), ("Nice is in", "France")),
    ),
    Record("1", "Pisa is in", "Pisa", "Chile", "Italy", locality=(("Rome is in", "Italy"),)),
    Record("2", "Nice speaks", "Nice", "Welsh", "French", locality=(("Oslo speaks", "Norse"),)),
    Record("3", "Some plant", "", "x", "Italy"),
]  # fmt: skip
CLAIMS = [
    RecordClaims("own", ("other",), ("other", "none")),
    RecordClaims("own", (), ("none",)),
    RecordClaims("none", (), ("none",)),
    RecordClaims("own", (), ()),
]


def test_shares_are_means_per_record_and_then_over_records_with_such_prompts() -> None:
    assert claim_figures(CLAIMS, RECORDS) == {
        "claims.prompts": pytest.approx(3 / 4),
        "claims.rephrases": 0.0,
        "claims.others": 1.0,
        "claims.unrelated": pytest.approx(0.5 / 3),
        # record 1 changed what Pisa is in; record 2 says nothing of where Nice is
        "claims.changed": pytest.approx(0.5 / 3),
    }


def test_systems_that_do_not_route_have_no_claim_figures() -> None:
    assert claim_figures([], RECORDS) == {}
