"""The path from an entry to its effect waits for artifacts and passes every other error on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import pytest

from errata.editing.lane.swap import Change
from errata.editing.model.weights import Undo
from errata.errors import DataLossError, ErrataError, UnavailableError
from errata.log.entries import EditsReverted, Entry
from errata.platform import retry
from errata.replica.applier import Applier
from errata.replica.apply import apply

ENTRY = Entry(1, "id", datetime.now(UTC), "test", EditsReverted((), ""))


class FakeApplier:
    """Answers `prepare` as it is told, one answer after the other."""

    def __init__(self, *answers: Change | ErrataError | None) -> None:
        self.answers = list(answers)

    async def prepare(self, entry: Entry) -> Change | None:
        assert entry is ENTRY
        answer = self.answers.pop(0)
        if isinstance(answer, ErrataError):
            raise answer
        return answer


async def test_unavailable_artifacts_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_DELAY_SECONDS", 0.0)
    applied: list[bool] = []

    def put_in_place() -> Undo:
        applied.append(True)
        return applied.clear

    away = UnavailableError("the store is away.")
    applier = FakeApplier(away, away, Change(put_in_place))
    assert await apply(cast(Applier, applier), ENTRY)
    assert applied == [True]


async def test_an_entry_without_effect_changes_nothing() -> None:
    assert not await apply(cast(Applier, FakeApplier(None)), ENTRY)


async def test_other_errors_are_not_retried() -> None:
    applier = FakeApplier(DataLossError("the entry contradicts those before it."))
    with pytest.raises(DataLossError):
        await apply(cast(Applier, applier), ENTRY)
