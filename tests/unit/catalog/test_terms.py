"""What users type never reaches the index as its own language."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.catalog.database import _MADE
from errata.catalog.terms import MAX_TERMS, indexed, match_of
from errata.errors import InvalidRequestError
from tests.unit.outside_text import FRAGMENTS


@pytest.fixture(scope="module")
def index() -> Iterator[sqlite3.Connection]:
    """The index of the database alone."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    statement = next(each for each in _MADE.split(";\n") if "VIRTUAL TABLE" in each)
    connection.execute(statement)
    yield connection
    connection.close()


def finds(index: sqlite3.Connection, text: str, query: str) -> bool:
    """Whether the only text of the index is found."""
    index.execute("DELETE FROM texts")
    index.execute("INSERT INTO texts (prompt) VALUES (?)", (indexed(text),))
    found = index.execute("SELECT count(*) FROM texts WHERE texts MATCH ?", (match_of(query),))
    return bool(found.fetchone()[0])


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("The capital of France is", "france CAPITAL"),
        ("The capital of France is", '"capital of France"'),
        ("The capital of France is", '"capital of France'),
        ("The capital of France is", "cap*"),
        ("Café Zürich", "cafe zurich"),
        ("O'Brien wrote C++ and 2026", "o'brien c++ 2026"),
        ("He said AND, OR, NOT and NEAR", "AND OR NOT NEAR"),
        ("a column prompt:x (y) ^z {w} -v", "prompt:x (y) ^z {w} -v"),
        ("東京は日本の首都です", "首都"),
        ("東京は日本の首都です", "日本 東京"),
        ("서울은 한국의 수도입니다", "서울"),
        ("กรุงเทพเป็นเมืองหลวง", "เมือง"),
        ("It rains 🌧️🌂 today", "🌂"),
        ("nul\0byte", "nul byte"),
        ("x" * 100_000 + " end", "end"),
        ("Москва", "москва"),
        ("plain", '"" plain ""'),
    ],
)
def test_it_is_found(index: sqlite3.Connection, text: str, query: str) -> None:
    assert finds(index, text, query)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("The capital of France is", "capital Spain"),
        ("The capital of France is", '"France capital"'),
        ("The capital of France is", "Fran"),
        ("The capital of France is", '"cap*"'),
        ("The capital of France is", "France OR Spain"),
        ("The capital of France is", "NOT Spain"),
        ("東京は日本の首都です", "京東"),
    ],
)
def test_it_is_not_found(index: sqlite3.Connection, text: str, query: str) -> None:
    assert not finds(index, text, query)


@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8), max_size=8).map(" ".join))
def test_no_text_is_an_error_of_the_index(index: sqlite3.Connection, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()  # as protobuf takes it
    try:
        match = match_of(text)
    except InvalidRequestError:
        return
    if match:
        index.execute("SELECT count(*) FROM texts WHERE texts MATCH ?", (match,)).fetchone()


@pytest.mark.parametrize("text", ["?!", '"', '""', "*", "( ) ^ -"])
def test_a_text_without_a_word_says_what_to_do(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="give a word") as caught:
        match_of(text)
    assert caught.value.field == "text"


def test_blanks_are_no_condition_and_too_many_words_are_refused() -> None:
    assert match_of(" \t\n") == ""
    assert match_of("a " * MAX_TERMS)
    with pytest.raises(InvalidRequestError, match=r"65 words; the limit is 64"):
        match_of("a " * (MAX_TERMS + 1))
