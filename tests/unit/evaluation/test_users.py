"""What users need, measured on a system whose answers a test can foresee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from errata.engine.sampling import Sampling
from errata.evaluation.data.record import Record
from errata.evaluation.edit.users import FILLER, REFUSAL, user_figures
from errata.evaluation.systems import EditOutcome, Pair, Scored

FACTS = {"Lyon": "France", "Pisa": "Italy"}
RIVERS = {"Lyon": "Rhône", "Pisa": "Arno", "Rome": "Tiber", "Bonn": "Rhine"}
CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid"}


def record(number: int, prompt: str, subject: str, new: str, true: str) -> Record:
    return Record(str(number), prompt, subject, new, true, (f"They say that {prompt}",))


RECORDS = [
    record(0, "Lyon is in", "Lyon", "Spain", "France"),
    record(1, "Pisa is near", "Pisa", "Spain", "Italy"),
]
WHOLE = [
    *RECORDS,
    *(record(9, f"The capital of {x} is", x, "Bern", y) for x, y in CAPITALS.items()),
]


@dataclass
class Book:
    """Answers from a table; an edit changes one prompt, and what `hears` finds in it."""

    hears_others: bool
    composes: bool = True
    forgets_first: bool = False
    spoils_subjects: bool = False
    edited: dict[str, str] = field(default_factory=dict)
    model_digest: str = "m"
    state_bytes: int = 0

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        if self.forgets_first:
            self.edited.clear()
        self.edited |= {item.prompt: item.target_new for item in records}
        return EditOutcome((), 0.0)

    def reset(self) -> None:
        self.edited.clear()

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        return [self._scored(str(prompt), target) for prompt, target in pairs]

    def generate(
        self, prompts: Sequence[str], max_tokens: int, sampling: Sequence[Sampling]
    ) -> list[str]:
        raise AssertionError

    def _answer(self, prompt: str) -> str:
        for edited, target in self.edited.items():
            if prompt == edited or (self.hears_others and prompt.endswith(edited)):
                return target
        if prompt.startswith("The river of"):
            town = next(town for town in RIVERS if town in prompt)
            is_spoiled = self.spoils_subjects and any(town in edited for edited in self.edited)
            return "nothing" if is_spoiled else RIVERS[town]
        country = next((FACTS[town] for town in FACTS if town in prompt), "nowhere")
        for edited, target in self.edited.items():
            if f'"{edited} …"' in prompt:
                country = target
        if prompt.startswith("The capital of"):
            return CAPITALS.get(country, "nothing") if self.composes else "nothing"
        return country

    def _scored(self, prompt: str, target: str) -> Scored:
        """Words are tokens; only the last words of a long answer are compared."""
        words = target.split()
        asked = prompt if FILLER not in target else " ".join(words[:-1])
        right = self._answer(asked if FILLER not in target else asked.split(". ")[-1][-40:])
        last = words if FILLER not in target else words[-1:]
        said = right.split()
        found = words[: -len(last)] + [said[i] if i < len(said) else "?" for i in range(len(last))]
        return Scored(tuple(map(_id, words)), tuple(map(_id, found)), tuple(0.0 for _ in words))


def _id(word: str) -> int:
    return sum(ord(letter) * 31**i for i, letter in enumerate(word)) % 1_000_003


def test_a_system_that_only_knows_exact_prompts_leaks_the_old_answer() -> None:
    found = user_figures(Book(hears_others=False), RECORDS, WHOLE, 1)
    assert found["users.changed"] == found["users.changed_back"] == [1.0, 1.0]
    assert found["users.refused"] == found["users.unlearned"] == [1.0, 1.0]
    assert found["users.extractable"] == [1.0, 1.0]
    assert found["users.both_facts"] == [1.0, 1.0]
    assert found["users.ripple"] == [1.0, 1.0]


def test_one_that_also_hears_other_wordings_does_not() -> None:
    found = user_figures(Book(hears_others=True), RECORDS, WHOLE, 2)
    assert found["users.extractable"] == [0.0, 0.0]
    assert found["users.held_at_50"] == [1.0, 1.0]


def test_a_system_that_forgets_loses_the_first_fact_of_a_subject() -> None:
    found = user_figures(Book(hears_others=False, forgets_first=True), RECORDS, WHOLE, 2)
    assert found["users.both_facts"] == [0.0, 0.0]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("spoils", [False, True])
def test_what_else_is_known_of_an_edited_subject(batch: int, spoils: bool) -> None:
    rivers = [
        record(20 + i, f"The river of {town} is", town, "Po", river)
        for i, (town, river) in enumerate(RIVERS.items())
    ]
    towns = [record(30, "Rome is in", "Rome", "Spain", "Italy"), WHOLE[1]]
    book = Book(hears_others=False, spoils_subjects=spoils)
    found = user_figures(book, RECORDS, [*RECORDS, *towns, *rivers], batch)
    assert found["users.subject_kept"] == [0.0 if spoils else 1.0] * len(
        found["users.subject_kept"]
    )
    assert len(found["users.subject_kept"]) == 3, "Bonn has one fact"


def test_questions_that_the_model_cannot_answer_do_not_count() -> None:
    book = Book(hears_others=True, composes=False)
    assert "users.ripple" not in user_figures(book, RECORDS, WHOLE, 2)
    assert not book.edited, "no edit is left"


def test_the_filler_is_longer_than_fifty_tokens() -> None:
    assert len(FILLER.split()) > 50
    assert len(REFUSAL.split()) > 1


@pytest.mark.parametrize("batch", [1, 2])
def test_records_without_an_old_answer_are_left_out(batch: int) -> None:
    new = Record("7", "Nice is in", "Nice", "Spain", None)
    found = user_figures(Book(hears_others=False), [*RECORDS, new], WHOLE, batch)
    assert len(found["users.changed"]) == len(RECORDS)
