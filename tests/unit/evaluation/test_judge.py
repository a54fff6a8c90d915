"""The judge: figures from answers, per record and then over records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from errata.engine.sampling import Sampling
from errata.evaluation.data.record import Record, RippleQuestion, RippleTest
from errata.evaluation.judge import ask, measures_of
from errata.evaluation.systems import EditOutcome, Pair, Scored

RECORD = Record(
    case_id="0",
    prompt="Lyon is in",
    subject="Lyon",
    target_new="Italy",
    target_true="France",
    rephrases=("Where is Lyon? In", "Lyon lies in"),
    locality=(("Pisa is in", "Italy"), ("Nice is in", "France"), ("Rome is in", "Italy")),
)


class Table:
    """A system whose log-probabilities and first-ranked tokens are given by the test."""

    model_digest, state_bytes = "m", 0

    def __init__(self, likelihoods: dict[Pair, float], first_choices: dict[str, str]) -> None:
        self._likelihoods, self._first = likelihoods, first_choices
        self.asked: list[Pair] = []

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        self.asked += pairs
        return [
            Scored(
                (_id(target),),
                (_id(self._first.get(prompt, "?")),),
                (self._likelihoods.get((prompt, target), -9.0),),
            )
            for prompt, target in pairs
        ]

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        raise AssertionError

    def generate(
        self, prompts: Sequence[str], max_tokens: int, sampling: Sequence[Sampling]
    ) -> list[str]:
        raise AssertionError

    def reset(self) -> None:
        raise AssertionError


def _id(text: str) -> int:
    return sum(map(ord, text))


BEFORE = Table({}, {"Pisa is in": "France", "Nice is in": "France", "Rome is in": "Italy"})
NOW = Table(
    {
        ("Lyon is in", "Italy"): -1.0,
        ("Lyon is in", "France"): -2.0,
        ("Where is Lyon? In", "Italy"): -3.0,
        ("Where is Lyon? In", "France"): -2.0,
        ("Lyon lies in", "Italy"): -1.0,
        ("Pisa is in", "Italy"): -1.0,
        ("Nice is in", "France"): -2.0,
        ("Nice is in", "Italy"): -1.0,
    },
    {
        "Lyon is in": "Italy",
        "Where is Lyon? In": "France",
        "Lyon lies in": "Italy",
        "Pisa is in": "France",
        "Nice is in": "Italy",
        "Rome is in": "Italy",
    },
)


def test_every_figure_of_one_record() -> None:
    figures = measures_of([RECORD], ask(BEFORE, [RECORD]), ask(NOW, [RECORD]))
    assert figures["reliability.token"] == figures["reliability.exact"] == 1.0
    assert figures["generality.token"] == 0.5
    assert figures["locality.token"] == pytest.approx(2 / 3)  # Pisa is as wrong as it was
    assert figures["efficacy"] == 1.0
    assert figures["generalization"] == 0.5
    # Pisa −1 wants its own answer, Italy; so does the edit: a tie is no preference. Nice −2 < −1.
    assert figures["specificity"] == 0.0
    assert figures["score"] == 0.0
    assert figures["target_perplexity"] == pytest.approx(2.72)


def test_means_are_over_records_and_not_over_prompts() -> None:
    narrow = replace(RECORD, rephrases=("Lyon lies in",))
    figures = measures_of(
        [RECORD, narrow], ask(BEFORE, [RECORD, narrow]), ask(NOW, [RECORD, narrow])
    )
    assert figures["generality.token"] == 0.75  # over the three prompts it would be 2/3


def test_a_data_set_without_true_answers_has_zsres_figures() -> None:
    record = replace(RECORD, target_true=None, locality=RECORD.locality[1:])
    figures = measures_of([record], ask(BEFORE, [record]), ask(NOW, [record]))
    assert figures["efficacy"] == 1.0
    assert figures["generalization"] == 0.5
    assert figures["specificity"] == 0.5  # accuracy: Nice is wrong now, Rome is right
    assert figures["locality.token"] == 0.5
    assert figures["score"] == pytest.approx(3 / (1 + 2 + 2))


def test_figures_that_a_record_lacks_are_none_and_not_asked_for() -> None:
    bare = replace(RECORD, rephrases=(), locality=())
    figures = measures_of([bare, RECORD], ask(BEFORE, [bare, RECORD]), ask(NOW, [bare, RECORD]))
    assert figures["generality.token"] == 0.5, "only the record that has rephrases counts"
    alone = measures_of([bare], ask(BEFORE, [bare]), ask(NOW, [bare]))
    assert alone["generality.token"] is None
    assert alone["locality.exact"] is None
    assert alone["score"] is None
    assert alone["efficacy"] == 1.0


NEW = RippleQuestion("Lyon is in", ("Italia", "Italy"))
OTHER = RippleQuestion("Nice is in", ("France",))
UNKNOWN = RippleQuestion("Nice is in", ("Spain",))


def _rippled(*tests: RippleTest) -> dict[str, float | None]:
    record = replace(RECORD, ripples={"Compositionality_I": tests})
    return measures_of([record], ask(BEFORE, [record]), ask(NOW, [record]))


def test_a_ripple_is_right_if_any_of_its_answers_is() -> None:
    figures = _rippled(RippleTest((NEW,)), RippleTest((OTHER,)))
    assert figures["ripple.Compositionality_I"] == 0.5
    either, both = RippleTest((NEW, OTHER)), RippleTest((NEW, OTHER), needs_all=True)
    assert _rippled(either)["ripple.Compositionality_I"] == 1.0
    assert _rippled(both)["ripple.Compositionality_I"] == 0.0


def test_a_ripple_counts_only_if_the_model_knew_what_it_follows_from() -> None:
    known = RippleQuestion("Rome is in", ("Italy",))
    figures = _rippled(
        RippleTest((NEW,), conditions=(known,)),
        RippleTest((OTHER,), conditions=(known, UNKNOWN)),
    )
    assert figures["ripple.Compositionality_I"] == 1.0
    assert figures["ripple_counted.Compositionality_I"] == 0.5
    nothing = _rippled(RippleTest((NEW,), conditions=(UNKNOWN,)))
    assert nothing["ripple_counted.Compositionality_I"] == 0.0
    assert "ripple.Compositionality_I" not in nothing


def test_equal_questions_are_asked_once() -> None:
    table = Table({}, {})
    ask(table, [RECORD, RECORD])
    assert len(table.asked) == len(set(table.asked)) == 2 + 4 + 4  # Italy and France everywhere
