"""Filters, order and pages."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest

from errata.catalog.finding import Order, Search, find
from errata.catalog.happenings import micros
from errata.catalog.sight import Sight
from errata.errors import InvalidRequestError
from errata.writer.record import State
from errata_client._gen.errata.v1 import editing_pb2
from tests.integration.log import entries
from tests.unit.catalog.memory import TIME, Log, edit


def names(log: Log, size: int = 100, **wanted: Any) -> list[str]:
    found, _ = find(log.database.connection, Search(**wanted), size, "")
    return [editing_pb2.Edit.FromString(each.data).name for each in found]


@pytest.fixture
def filled(log: Log) -> Log:
    """Three edits: by tom, by eve in another lane, and a committed one later."""
    log.lane("lanes/b", "recipe")
    log.request(edit("The tower of Pisa leans", subject="Pisa"))
    log.request(edit("The tower of Siena stands", "upright", "Siena"), lane="lanes/b", author="eve")
    (last,) = log.request(edit("The square of Siena", "round", "SIENA"), time=TIME + timedelta(9))
    log.add(entries.commit(last))
    return log


def test_each_filter_and_all_together(filled: Log) -> None:
    first, second, third = "edits/3-0", "edits/4-0", "edits/5-0"
    assert names(filled) == [third, second, first]
    assert names(filled, states=(State.COMMITTED,)) == [third]
    assert names(filled, states=(State.COMMITTED, State.REQUESTED)) == [third, second, first]
    assert names(filled, lane="lanes/b") == [second]
    assert names(filled, author="eve") == [second]
    assert names(filled, method="recipe") == [second]
    assert names(filled, method="elder") == []
    assert names(filled, subject="siena") == [third, second]
    assert names(filled, from_time=micros(TIME + timedelta(8))) == [third]
    assert names(filled, until_time=micros(TIME + timedelta(8))) == [second, first]
    assert names(filled, sight=Sight(frozenset({"b"}))) == [second]
    assert names(filled, sight=Sight(frozenset())) == []
    assert names(filled, text="siena", states=(State.REQUESTED,), author="eve") == [second]
    assert names(filled, text="siena", order=Order.RELEVANCE, lane="lanes/a") == [third]


def test_a_subject_matters_more_than_a_rephrase(log: Log) -> None:
    log.request(edit("Rome is", subject="Rome", rephrases=("unlike Pisa, Rome is",)))
    log.request(edit("It leans in Pisa", subject="Pisa"))
    log.request(edit("Rome was", subject="Rome", rephrases=("unlike Pisa, Rome was",)))
    assert names(log, text="pisa", order=Order.RELEVANCE)[0] == "edits/3-0"


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"text": "tower"},
        {"text": "tower", "order": Order.RELEVANCE},
        {"text": "tower", "order": Order.RELEVANCE, "author": "tom"},
    ],
)
def test_pages_have_each_edit_once(log: Log, wanted: dict[str, Any]) -> None:
    expected = [name for _ in range(7) for name in log.request(edit("a tower"), edit("b tower"))]
    search, found, token, pages = Search(**wanted), list[str](), "", 0
    while True:
        page, token = find(log.database.connection, search, 3, token)
        found += [editing_pb2.Edit.FromString(each.data).name for each in page]
        pages += 1
        if not token:
            break
        assert len(page) == 3
    assert sorted(found) == sorted(expected)
    assert len(found) == len(set(found))
    assert pages == 5
    if search.order is Order.NEWEST:
        numbers = [int(name.split("/")[1].split("-")[0]) for name in found]
        assert numbers == sorted(numbers, reverse=True)


def test_new_edits_do_not_shift_pages_of_the_newest(log: Log) -> None:
    expected = [log.request(edit("a tower"))[0] for _ in range(4)][::-1]
    page, token = find(log.database.connection, Search(), 2, "")
    log.request(edit("a newer tower"))
    more, _ = find(log.database.connection, Search(), 2, token)
    found = [editing_pb2.Edit.FromString(each.data).name for each in (*page, *more)]
    assert found == expected


def test_large_edits_make_short_pages(log: Log) -> None:
    for _ in range(4):
        log.request(edit("x" * 1_000_000 + " tower"))
    page, token = find(log.database.connection, Search(), 100, "")
    assert len(page) == 2
    more, token = find(log.database.connection, Search(), 100, token)
    assert len(more) == 2
    assert not token


@pytest.mark.parametrize(
    "token", ["x", "%%%", base64.urlsafe_b64encode(b"edits:7").decode(), "\u00e9", "A" * 3_000]
)
def test_a_wrong_token_says_what_to_do(log: Log, token: str) -> None:
    with pytest.raises(InvalidRequestError, match="leave it empty to start again"):
        find(log.database.connection, Search(), 10, token)


def test_a_token_of_another_search_is_refused(log: Log) -> None:
    log.request(edit("a tower"), edit("b tower"))
    _, token = find(log.database.connection, Search(), 1, "")
    assert token
    for other in (Search(text="tower"), Search(author="tom"), Search(states=(State.REQUESTED,))):
        with pytest.raises(InvalidRequestError, match="page_token"):
            find(log.database.connection, other, 1, token)


def test_relevance_needs_a_text(log: Log) -> None:
    with pytest.raises(InvalidRequestError, match="give one, or order them by newest"):
        find(log.database.connection, Search(order=Order.RELEVANCE), 10, "")
