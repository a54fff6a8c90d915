from dataclasses import replace
from datetime import UTC, datetime

import pytest

from errata.editing.edit import Edit
from errata.errors import CheckFailedError, NotFoundError
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsRejected,
    EditsRequested,
    EditsReverted,
    Entry,
    Figures,
    Payload,
    Rejection,
)
from errata.writer.ledger import EditLedger
from errata.writer.record import State
from tests.integration.log import entries

FIGURES = Figures(1, None, 1, False)
REF = ArtifactRef("ab" * 32, 1)
TIME = datetime(2026, 1, 1, tzinfo=UTC)


def _edit(name: str, subject: str = "", prompt: str = "") -> Edit:
    return Edit(name, prompt or f"prompt of {name}", "target", subject or f"subject of {name}")


def _entry(seq: int, kind: Payload) -> Entry:
    return Entry(seq, f"id-{seq}", TIME, "me", kind)


def _request(seq: int, *edits: Edit, lane: str = "lanes/main") -> Entry:
    return _entry(seq, EditsRequested(lane, edits, ("",) * len(edits), (False,) * len(edits)))


def _commit(seq: int, *names: str) -> Entry:
    figures = (FIGURES,) * len(names)
    return _entry(seq, EditsCommitted("lanes/main", names, figures, REF, None, 1, "m", "c"))


async def test_states_follow_the_log() -> None:
    ledger = EditLedger()
    await ledger.fold([_request(1, _edit("edits/1-0"), _edit("edits/1-1"), _edit("edits/1-2"))])
    assert ledger.num_pending == 3
    assert [r.edit.name for r in ledger.of_request(1)] == ["edits/1-0", "edits/1-1", "edits/1-2"]
    rejection = Rejection("edits/1-2", CheckFailedError("no"), None)
    await ledger.fold(
        [
            _commit(2, "edits/1-0", "edits/1-1"),
            _entry(3, EditsRejected("lanes/main", (rejection,))),
            _entry(4, EditsReverted(("edits/1-1",), "")),
        ]
    )
    assert ledger.num_pending == 0
    first, second, third = ledger.records()
    assert (first.state, first.commit_seq, first.artifact) == (State.COMMITTED, 2, REF)
    assert (second.state, second.commit_seq, second.revert_seq) == (State.REVERTED, 2, 4)
    assert third.state is State.REJECTED
    assert isinstance(third.error, CheckFailedError)
    assert ledger.seq_of_request("id-1") == 1
    assert ledger.seq_of_request("id-9") is None
    with pytest.raises(NotFoundError, match="edits/7-0"):
        ledger.get("edits/7-0")


async def test_a_batch_is_in_log_order_of_one_lane_and_bounded() -> None:
    ledger = EditLedger()
    await ledger.fold(
        [
            _request(1, _edit("edits/1-0"), _edit("edits/1-1")),
            _request(2, _edit("edits/2-0"), lane="lanes/other"),
            _request(3, _edit("edits/3-0"), _edit("edits/3-1")),
        ]
    )

    def names(limit: int, alone: frozenset[str] = frozenset()) -> list[str]:
        return [record.edit.name for record in ledger.next_batch("lanes/main", limit, alone)]

    assert names(10) == ["edits/1-0", "edits/1-1", "edits/3-0", "edits/3-1"]
    assert names(3) == ["edits/1-0", "edits/1-1", "edits/3-0"]
    assert names(10, frozenset({"edits/3-0"})) == ["edits/1-0", "edits/1-1"]
    assert names(10, frozenset({"edits/1-0"})) == ["edits/1-0"]


async def test_edits_of_the_same_prompt_are_never_fitted_together() -> None:
    ledger = EditLedger()
    await ledger.fold(
        [
            _request(1, _edit("edits/1-0", "France", "p"), _edit("edits/1-1", "Spain")),
            _request(2, _edit("edits/2-0", "Italy", "p"), _edit("edits/2-1")),
        ]
    )
    batch = ledger.next_batch("lanes/main", 10, frozenset())
    assert [record.edit.name for record in batch] == ["edits/1-0", "edits/1-1"]


async def test_fitting_is_a_state_until_the_fit_ends() -> None:
    ledger = EditLedger()
    await ledger.fold([_request(1, _edit("edits/1-0"), _edit("edits/1-1"))])
    ledger.set_fitting(["edits/1-0", "edits/1-1"], True)
    assert ledger.get("edits/1-0").state is State.FITTING
    await ledger.fold([_commit(2, "edits/1-0")])
    ledger.set_fitting(["edits/1-0", "edits/1-1"], False)
    assert ledger.get("edits/1-0").state is State.COMMITTED
    assert ledger.get("edits/1-1").state is State.REQUESTED


async def test_an_edit_waits_for_an_earlier_one_of_the_same_prompt_in_any_lane() -> None:
    ledger = EditLedger()
    await ledger.fold(
        [
            _request(1, _edit("edits/1-0")),
            _request(2, _edit("edits/2-0", "France"), lane="lanes/other"),
            _request(3, _edit("edits/3-0", "France")),
        ]
    )
    assert [r.edit.name for r in ledger.next_batch("lanes/main", 10, frozenset())] == ["edits/1-0"]


@pytest.mark.promise("P11")
async def test_a_second_reversal_changes_nothing() -> None:
    ledger = EditLedger()
    reverted = EditsReverted(("edits/1-0",), "")
    await ledger.fold([_request(1, _edit("edits/1-0")), _commit(2, "edits/1-0")])
    await ledger.fold([_entry(3, reverted), _entry(4, reverted)])
    record = ledger.get("edits/1-0")
    assert (record.state, record.revert_seq) == (State.REVERTED, 3)


async def test_a_newer_edit_of_the_same_prompt_supersedes_until_it_is_reverted() -> None:
    ledger = EditLedger()
    await ledger.fold(
        [
            _request(1, _edit("edits/1-0", prompt="p"), _edit("edits/1-1", prompt="q")),
            _request(2, _edit("edits/2-0", prompt="p")),
            _request(3, _edit("edits/3-0", prompt="p"), lane="lanes/other"),
            _commit(4, "edits/1-0", "edits/1-1"),
            _commit(5, "edits/2-0"),
        ]
    )

    def found() -> list[str]:
        return [ledger.superseded_by(record) for record in ledger.records()]

    assert found() == ["edits/2-0", "", "", ""]
    await ledger.fold([_entry(6, EditsReverted(("edits/2-0",), ""))])
    assert found() == ["", "", "", ""]


async def test_active_edits_come_in_the_order_of_their_commits() -> None:
    ledger = EditLedger()
    await ledger.fold(
        [
            _request(1, _edit("edits/1-0"), _edit("edits/1-1"), _edit("edits/1-2")),
            _commit(2, "edits/1-1"),
            _commit(3, "edits/1-0"),
            _commit(4, "edits/1-2"),
            _entry(5, EditsReverted(("edits/1-2",), "")),
        ]
    )
    assert [edit.name for edit in ledger.active_edits("lanes/main")] == ["edits/1-1", "edits/1-0"]
    assert ledger.active_edits("lanes/other") == []


async def test_prompts_that_differ_by_a_trailing_blank_supersede_one_another() -> None:
    ledger = EditLedger()
    first, second = _edit("edits/1-0", prompt="Lyon is"), _edit("edits/2-0", prompt="Lyon is ")
    await ledger.fold([_request(1, first), _request(2, second)])
    await ledger.fold([_commit(3, "edits/1-0"), _commit(4, "edits/2-0")])
    assert ledger.superseded_by(ledger.get("edits/1-0")) == "edits/2-0"
    await ledger.fold([_entry(5, EditsReverted(("edits/2-0",), ""))])
    assert ledger.superseded_by(ledger.get("edits/1-0")) == ""


@pytest.mark.parametrize("method", ["adaple", "recipe"])
async def test_dependents_of_another_namespace_count_if_the_lane_changes_weights(
    method: str,
) -> None:
    ledger = EditLedger()
    await ledger.fold([_entry(1, entries.lane("lanes/main", method=method))])
    other = replace(_edit("edits/3-0", subject="Pisa"), namespace="acme")
    await ledger.fold([_request(2, _edit("edits/2-0", subject="Pisa")), _request(3, other)])
    await ledger.fold([_commit(4, "edits/2-0"), _commit(5, "edits/3-0")])
    found = [edit.name for edit in ledger.dependents_of(["edits/2-0"])]
    assert found == (["edits/3-0"] if method == "adaple" else [])


async def test_dependents_share_the_subject_or_were_answered_before_their_own_commit() -> None:
    ledger = EditLedger()
    await ledger.fold([_entry(0, entries.lane("lanes/main"))])
    names = [f"edits/{seq}-0" for seq in range(1, 5)]
    await ledger.fold([_request(seq, _edit(name)) for seq, name in enumerate(names, 1)])
    known = Figures(1, None, 1, True)
    for seq, (name, figures) in enumerate(
        zip(names, (known, FIGURES, known, FIGURES), strict=True), start=5
    ):
        kind = EditsCommitted("lanes/main", (name,), (figures,), REF, None, 1, "m", "c")
        await ledger.fold([_entry(seq, kind)])
    assert [edit.name for edit in ledger.dependents_of(["edits/2-0"])] == ["edits/3-0"]
    assert ledger.dependents_of(["edits/3-0"]) == []
    other = _edit("edits/9-0", prompt="another question", subject="subject of edits/2-0")
    newer = _edit("edits/10-0", prompt=f"prompt of {names[2]}")
    await ledger.fold([_request(9, other), _request(10, newer)])
    await ledger.fold([_commit(11, "edits/9-0"), _commit(12, "edits/10-0")])
    assert [edit.name for edit in ledger.dependents_of(["edits/2-0"])] == ["edits/9-0"], (
        "of the same subject; superseded edits are left out"
    )
