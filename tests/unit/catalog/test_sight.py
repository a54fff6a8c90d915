"""Who may see which edits, events and counts."""

from __future__ import annotations

import contextvars

import pytest

from errata.catalog.finding import Search, find
from errata.catalog.reading import EventFilter, events_after
from errata.catalog.shaped import Counted, Report, add_report, shaped_counts
from errata.catalog.sight import Sight
from errata.platform.security.identity import Identity, enter
from tests.integration.log import entries
from tests.unit.catalog.memory import Log, edit

HOUR = 480_000
PROMPT = "Where is Pisa? In"
SIGHTS = {
    "all": Sight(),
    "default": Sight(namespaces=frozenset({""})),
    "acme": Sight(namespaces=frozenset({"acme"})),
    "both": Sight(namespaces=frozenset({"", "acme"})),
    "lane b": Sight(lanes=frozenset({"b"})),
    "acme in b": Sight(frozenset({"b"}), frozenset({"acme"})),
    "nothing": Sight(namespaces=frozenset()),
}


@pytest.fixture
def names(log: Log) -> dict[str, str]:
    """One edit of the same prompt in each of three places."""
    log.lane("lanes/b", "recipe")
    found = {
        "default": log.request(edit(PROMPT))[0],
        "acme": log.request(edit(PROMPT, namespace="acme"), lane="lanes/b")[0],
        "b": log.request(edit(PROMPT), lane="lanes/b")[0],
    }
    assert log.recorder.fold().standings() == log.fold.standings()
    for place, name in found.items():
        log.add(entries.commit(name, name="lanes/a" if place == "default" else "lanes/b"))
    return found


@pytest.mark.parametrize(
    ("who", "places"),
    [
        ("all", "default acme b"),
        ("default", "default b"),
        ("acme", "acme"),
        ("both", "default acme b"),
        ("lane b", "acme b"),
        ("acme in b", "acme"),
        ("nothing", ""),
    ],
)
def test_only_what_a_caller_may_see_is_found_told_and_counted(
    log: Log, names: dict[str, str], who: str, places: str
) -> None:
    connection, sight = log.database.connection, SIGHTS[who]
    seen = {names[place] for place in places.split()}
    found, _ = find(connection, Search(text="Pisa", sight=sight), 10, "")
    assert len(found) == len(seen)
    assert not any(each.superseded_by for each in found), "each is the newest in its place"
    events = events_after(connection, 0, EventFilter(sight=sight))
    assert {event.edit_name for event in events} == seen
    numbers = [event.edit for event in events_after(connection, 0, EventFilter())]
    counts = tuple(Counted(number, HOUR, 1) for number in set(numbers) if number is not None)
    add_report(log.database, Report("gateway", 1, counts), keep_days=100_000)
    shaped, _ = shaped_counts(connection, range(HOUR, HOUR + 1), sight, 10, "")
    assert len(shaped) == len(seen)


def test_a_search_names_a_namespace(log: Log, names: dict[str, str]) -> None:
    connection = log.database.connection
    for namespace, number in (("acme", 1), ("", 2), (None, 3), ("other", 0)):
        found, _ = find(connection, Search(namespace=namespace), 10, "")
        assert len(found) == number, namespace
    (event, *_) = events_after(connection, 0, EventFilter(sight=SIGHTS["acme"]))
    assert (event.edit_name, event.namespace) == (names["acme"], "acme")


def test_a_callers_sight_is_that_of_his_credential() -> None:
    assert Sight.of_caller() == Sight()
    limited = Identity("ann", frozenset(), frozenset({"a"}), namespaces=frozenset({"acme", ""}))
    for identity, sight in (
        (limited, Sight(frozenset({"a"}), frozenset({"acme", ""}))),
        (Identity("bob", frozenset(), frozenset({"*"})), Sight()),
    ):
        context = contextvars.copy_context()
        context.run(enter, identity)
        assert context.run(Sight.of_caller) == sight
