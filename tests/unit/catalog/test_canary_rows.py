"""Edits of canaries in the catalog: who answers, before and after the end, and what is told."""

from __future__ import annotations

from typing import Any

import pytest

from errata.catalog.database import Database
from errata.catalog.finding import Search, find
from errata.catalog.happenings import Event
from errata.catalog.reading import EventFilter, events_after
from errata.catalog.recorder import Recorder
from errata.catalog.sight import Sight
from errata.catalog.webhooks.messages import message_of
from errata.log.canary_entries import CanaryEnded, CanarySet, Outcome
from errata.log.chain import Position
from errata_client._gen.errata.v1 import editing_pb2
from tests.integration.log import entries
from tests.unit.catalog.memory import Log, edit
from tests.unit.catalog.test_rows import same_as_the_ledger

ROUTED = "lanes/routed"
TRIAL = "canaries/trial"
PROMPT = "Pisa is in"


@pytest.fixture
def trial(log: Log) -> Log:
    """A log with an open canary of the namespace `acme`."""
    log.lane(ROUTED, "recipe")
    log.add(CanarySet(TRIAL, ROUTED, "acme", 100_000, comment="first try"))
    return log


def submit(log: Log, target: str, canary: str = "", namespace: str = "acme") -> str:
    asked = edit(PROMPT, target, namespace=namespace, canary=canary)
    (name,) = log.request(asked, lane=ROUTED)
    return name


def commit(log: Log, *names: str) -> None:
    for name in names:
        log.add(entries.commit(name, name=ROUTED))


def end(log: Log, outcome: Outcome, *names: str) -> int:
    return log.add(CanaryEnded(TRIAL, outcome, names, "enough"), "eve")


def events(log: Log, **sight: Any) -> list[Event]:
    return events_after(log.database.connection, 0, EventFilter(sight=Sight(**sight)))


def newer(log: Log, name: str) -> str:
    found, _ = find(log.database.connection, Search(), 100, "")
    by_name = {editing_pb2.Edit.FromString(each.data).name: each for each in found}
    return by_name[name].superseded_by


def test_a_trial_supersedes_nothing_until_it_is_promoted(trial: Log) -> None:
    old = submit(trial, "Spain")
    new = submit(trial, "Italy", TRIAL)
    commit(trial, old, new)
    same_as_the_ledger(trial)
    assert (newer(trial, old), newer(trial, new)) == ("", "")
    end(trial, Outcome.PROMOTED, new)
    same_as_the_ledger(trial)
    assert (newer(trial, old), newer(trial, new)) == (new, "")


def test_a_later_edit_of_the_namespace_supersedes_a_trial_before_and_after_its_promotion(
    trial: Log,
) -> None:
    new = submit(trial, "Italy", TRIAL)
    later = submit(trial, "Tuscany")
    commit(trial, new, later)
    same_as_the_ledger(trial)
    assert (newer(trial, new), newer(trial, later)) == (later, "")
    end(trial, Outcome.PROMOTED, new)
    same_as_the_ledger(trial)
    assert (newer(trial, new), newer(trial, later)) == (later, "")


def test_edits_that_were_pending_go_on_in_the_namespace(trial: Log) -> None:
    old, new = submit(trial, "Spain"), submit(trial, "Italy", TRIAL)
    commit(trial, old)
    end(trial, Outcome.PROMOTED)
    same_as_the_ledger(trial)
    commit(trial, new)
    same_as_the_ledger(trial)
    assert newer(trial, old) == new


def test_a_roll_back_reverts_with_its_comment(trial: Log) -> None:
    old, new, refused = submit(trial, "Spain"), submit(trial, "Italy", TRIAL), ""
    commit(trial, old, new)
    refused = submit(trial, "Rome", TRIAL)
    trial.add(entries.reject(refused, name=ROUTED))
    seq = end(trial, Outcome.ROLLED_BACK, new)
    same_as_the_ledger(trial)
    found, _ = find(trial.database.connection, Search(text="enough"), 100, "")
    assert [each.revert_comment for each in found] == ["enough"]
    told = [(e.kind.value, e.edit_name, e.canary, e.author) for e in events(trial) if e.seq == seq]
    assert told == [
        ("canary.rolled_back", "", TRIAL, "eve"),
        ("edit.reverted", new, "", "eve"),
    ]


def test_a_canarys_life_is_told_to_who_may_see_its_lane_and_namespace(trial: Log) -> None:
    trial.add(CanarySet(TRIAL, ROUTED, "acme", 500_000, comment="more"), "ann")
    end(trial, Outcome.PROMOTED)
    told = [
        (e.kind.value, e.lane, e.namespace, e.author, e.comment)
        for e in events(trial)
        if e.canary == TRIAL
    ]
    assert told == [
        ("canary.opened", ROUTED, "acme", "tom", "first try"),
        ("canary.changed", ROUTED, "acme", "ann", "more"),
        ("canary.promoted", ROUTED, "acme", "eve", "enough"),
    ]
    assert len(events(trial, namespaces=frozenset({"acme"}))) == 3
    assert events(trial, namespaces=frozenset({""})) == []
    assert events(trial, lanes=frozenset({"a"})) == []
    assert len(events(trial, lanes=frozenset({"routed"}))) == 3


def test_edits_of_a_canary_are_found_by_their_namespace(trial: Log) -> None:
    name = submit(trial, "Italy", TRIAL)
    for search in (
        Search(namespace="acme"),
        Search(sight=Sight(namespaces=frozenset({"acme"}))),
        Search(text="Italy", sight=Sight(namespaces=frozenset({"acme"}))),
    ):
        (found,), _ = find(trial.database.connection, search, 100, "")
        message = editing_pb2.Edit.FromString(found.data)
        assert (message.name, message.spec.namespace, message.spec.canary) == (name, "acme", TRIAL)
    hidden, _ = find(
        trial.database.connection, Search(sight=Sight(namespaces=frozenset({""}))), 100, ""
    )
    assert hidden == []


def test_a_database_that_begins_with_a_snapshot_goes_on_alike(trial: Log) -> None:
    old, new = submit(trial, "Spain"), submit(trial, "Italy", TRIAL)
    commit(trial, old, new)
    database = Database(trial.database.path.with_name("second.sqlite"))
    recorder = Recorder(database)
    position = Position(trial.fold.seq, bytes(32))
    recorder.begin_from("log-1", "", position, trial.fold, trial.ledger.capture())
    trial.database, trial.recorder = database, recorder
    same_as_the_ledger(trial)
    end(trial, Outcome.PROMOTED, new)
    same_as_the_ledger(trial)
    assert newer(trial, old) == new
    (promoted,) = events(trial)
    assert (promoted.kind.value, promoted.namespace) == ("canary.promoted", "acme")


def test_a_webhook_names_the_canary(trial: Log) -> None:
    (opened,) = events(trial)
    message = message_of(opened, "log-1")
    assert message.event_id == f"log-1/{opened.seq}/{TRIAL}"
    assert b'"type":"errata.canary.opened","subject":"canaries/trial"' in message.body
    assert b'"canary":"canaries/trial"' in message.body
