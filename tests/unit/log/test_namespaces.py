"""Entries with namespaces: their kind, what every reader folds, and what snapshots keep."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from errata.errors import ImpossibleEntryError
from errata.log.chain import ChainedEntry
from errata.log.entries import EditsRequested, LaneConfigured, Schedule
from errata.log.fold import LogFold
from errata.log.fold_json import fold_from_json, fold_to_json
from errata.log.payload_convert import decode, encode
from errata.log.standing import Standing
from errata.replica.fold_pages import fold_pages, read_fold
from errata_client._gen.errata.v1 import edit_log_pb2
from tests.unit.log.policies import LANE, MODEL, TIME, committed, folded, rejected, requested

ADAPLE = LaneConfigured("lanes/main", "adaple", "{}", hashlib.sha256(b"{}").hexdigest(), MODEL)
LATER = Schedule(expires_at=TIME + timedelta(days=1))


def placed(payload: EditsRequested, *namespaces: str) -> EditsRequested:
    """A request with its edit once in each namespace."""
    (edit,), seq = payload.edits, payload.edits[0].name.partition("-")[0]
    edits = tuple(
        replace(edit, name=f"{seq}-{index}", namespace=namespace)
        for index, namespace in enumerate(namespaces)
    )
    count = len(edits)
    times = payload.schedules * count
    return replace(
        payload,
        edits=edits,
        sources=("",) * count,
        subjects_found=(False,) * count,
        schedules=times,
    )


def read_back(payload: EditsRequested, seq: int = 2) -> EditsRequested:
    data = encode(payload, "somebody").SerializeToString()
    found = decode(ChainedEntry(seq, data, b"")).payload
    assert isinstance(found, EditsRequested)
    return found


@pytest.mark.parametrize("times", [(), (LATER,)])
def test_a_namespace_makes_an_entry_of_a_kind_that_older_versions_do_not_know(
    times: tuple[Schedule, ...],
) -> None:
    payload = placed(requested(2, *times), "team-a", "")
    message = encode(payload, "somebody")
    assert message.WhichOneof("kind") == "edits_namespaced"
    assert read_back(payload) == payload


@pytest.mark.parametrize(
    ("times", "kind"), [((), "edits_requested"), ((LATER,), "edits_scheduled")]
)
def test_without_namespaces_an_entry_is_byte_for_byte_what_it_was(
    times: tuple[Schedule, ...], kind: str
) -> None:
    payload = requested(2, *times)
    message = encode(payload, "somebody")
    assert message.WhichOneof("kind") == kind
    (spec,) = getattr(message, kind).edits
    assert 14 not in [field.number for field, _ in spec.ListFields()]
    assert read_back(payload) == payload


def test_a_namespace_in_an_older_kind_counts_for_nothing() -> None:
    """Older readers take such an entry as one of the default namespace, so newer ones must, too."""
    message = edit_log_pb2.EntryPayload()
    message.CopyFrom(encode(requested(2), "somebody"))
    message.edits_requested.edits[0].namespace = "team-a"
    found = decode(ChainedEntry(2, message.SerializeToString(), b"")).payload
    assert found == requested(2)


@pytest.mark.parametrize("name", ["default", "Team", "*", "a b", "x" * 64])
def test_an_entry_with_an_impossible_namespace_is_refused(name: str) -> None:
    with pytest.raises(ImpossibleEntryError, match="cannot be the name of a namespace"):
        folded(LANE, placed(requested(2), name))


def test_a_lane_that_changes_weights_takes_the_default_namespace_alone() -> None:
    folded(ADAPLE, requested(2))
    with pytest.raises(ImpossibleEntryError, match="in force for every request"):
        folded(ADAPLE, placed(requested(2), "", "team-a"))


def _history() -> LogFold:
    return folded(
        LANE,
        placed(requested(2), "team-a", "", "team-b"),
        committed("edits/2-0"),
        rejected("edits/2-1"),
        committed("edits/2-2"),
    )


def test_every_state_of_an_edit_keeps_its_namespace() -> None:
    standings = _history().standings()
    assert standings["edits/2-0"] == ("lanes/main", Standing.COMMITTED, "team-a")
    assert standings["edits/2-1"] == ("lanes/main", Standing.REJECTED, "")
    assert _history().active("lanes/main") == ["edits/2-0", "edits/2-2"], "of all namespaces"


def test_snapshots_and_archives_keep_namespaces() -> None:
    fold = _history()
    assert fold.has_namespaces
    again = fold_from_json(json.loads(json.dumps(fold_to_json(fold))))
    assert (again.standings(), again.has_namespaces) == (fold.standings(), True)
    restored, commit_seq = read_fold(list(fold_pages(fold, {"edits/2-0": 3, "edits/2-2": 5})))
    assert (restored.standings(), restored.has_namespaces) == (fold.standings(), True)
    assert commit_seq == {"edits/2-0": 3, "edits/2-2": 5}
    assert fold.copy().has_namespaces


def test_a_fold_without_namespaces_is_written_as_before() -> None:
    fold = folded(LANE, requested(2), committed("edits/2-0"))
    assert not fold.has_namespaces
    assert fold_to_json(fold)["edits"] == [["edits/2-0", "lanes/main", "committed"]]
    (_, page) = fold_pages(fold, {"edits/2-0": 3})
    assert json.loads(page) == [["edits/2-0", "lanes/main", "committed", 3]]
