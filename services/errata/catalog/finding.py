"""Finds edits: a full-text query and filters, page by page, as of one position."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from errata.catalog.database import name_of
from errata.catalog.rows import subject_key
from errata.catalog.sight import Sight
from errata.catalog.terms import match_of
from errata.editing.namespaces import own_namespace
from errata.errors import InvalidRequestError
from errata.platform.paging import number_of_token, page_token
from errata.writer.record import State

MAX_RANKED = 10_000
"""Most edits that pages in the order of relevance reach."""
_MAX_PAGE_BYTES = 2 * 1024 * 1024


class Order(StrEnum):
    """Order of the edits that are found."""

    RELEVANCE = "relevance"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class Search:
    """What is wanted; empty and None are no condition.

    Attributes:
        text: as `terms.match_of` reads it.
        states: any of these.
        lane: `lanes/{lane}`.
        author: who requested it.
        method: of its lane.
        subject: of the edit, whatever its case.
        from_time: requested then or later, in microseconds since 1970.
        until_time: requested before that.
        order: of the result.
        namespace: of the edit; the empty text is the default namespace, None all of them.
        sight: what the caller may see.
    """

    text: str = ""
    states: tuple[State, ...] = ()
    lane: str = ""
    author: str = ""
    method: str = ""
    subject: str = ""
    from_time: int | None = None
    until_time: int | None = None
    order: Order = Order.NEWEST
    namespace: str | None = None
    sight: Sight = field(default_factory=Sight)

    @property
    def kind(self) -> str:
        """Of its page tokens: those of another search do not fit."""
        values = (
            *(self.text, [state.value for state in self.states], self.lane, self.author),
            *(self.method, self.subject, self.from_time, self.until_time, self.order.value),
            self.namespace,
        )
        return f"find-{hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class Found:
    """An edit that was found.

    Attributes:
        data: bytes of its message.
        score: how well it matches; 0 without a text.
        superseded_by: name of the newer edit that answers instead; empty if none does.
        revert_comment: reason of its reversal.
    """

    data: bytes
    score: float
    superseded_by: str
    revert_comment: str


@dataclass(slots=True)
class _Conditions:
    """Parts of a statement, and their values."""

    parts: list[str] = field(default_factory=list)
    values: list[object] = field(default_factory=list)

    def add(self, part: str, *values: object) -> None:
        self.parts.append(part)
        self.values += values

    @property
    def where(self) -> str:
        return f" WHERE {' AND '.join(self.parts)}" if self.parts else ""


def find(
    connection: sqlite3.Connection, search: Search, size: int, token: str
) -> tuple[list[Found], str]:
    """A page of edits, and the token of the next one (empty on the last).

    Raises:
        InvalidRequestError: the text or the token cannot be used.
    """
    match = match_of(search.text)
    if search.order is Order.RELEVANCE and not match:
        raise InvalidRequestError(
            "edits are ordered by relevance to a text; give one, or order them by newest.",
            field="order",
        )
    at = number_of_token(search.kind, token) if token else None
    ranked = search.order is Order.RELEVANCE
    chosen = (
        _by_relevance(connection, search, match, size, at or 0)
        if ranked
        else (_newest(connection, search, match, size, at))
    )
    found, num_bytes = list[Found](), 0
    for number, score in chosen[:size]:
        one = _read(connection, number, score)
        num_bytes += len(one.data)
        if found and num_bytes > _MAX_PAGE_BYTES:
            break
        found.append(one)
    if len(found) == len(chosen):
        return found, ""
    following = (at or 0) + len(found) if ranked else chosen[len(found) - 1][0]
    return found, page_token(search.kind, str(following))


def _by_relevance(
    connection: sqlite3.Connection, search: Search, match: str, size: int, offset: int
) -> list[tuple[int, float]]:
    """Ids and scores, one more than wanted if there are more."""
    conditions = _filters(connection, search)
    conditions.add("texts MATCH ?", match)
    joined = " JOIN edits ON edits.id = texts.rowid" if len(conditions.parts) > 1 else ""
    most = max(0, min(size + 1, MAX_RANKED - offset))
    statement = (
        f"SELECT texts.rowid, -rank FROM texts{joined}{conditions.where} "
        "ORDER BY rank, texts.rowid DESC LIMIT ? OFFSET ?"
    )
    return list(connection.execute(statement, (*conditions.values, most, offset)))


def _newest(
    connection: sqlite3.Connection, search: Search, match: str, size: int, before: int | None
) -> list[tuple[int, float]]:
    conditions = _filters(connection, search)
    table, number = "edits", "edits.id"
    if match:
        conditions.add("texts MATCH ?", match)
        table, number = "texts JOIN edits ON edits.id = texts.rowid", "texts.rowid"
    if before is not None:
        conditions.add(f"{number} < ?", before)
    score = "-bm25(texts, 2.0, 4.0, 3.0, 1.0, 1.0)" if match else "0.0"
    statement = (
        f"SELECT {number}, {score} FROM {table}{conditions.where} ORDER BY {number} DESC LIMIT ?"
    )
    return list(connection.execute(statement, (*conditions.values, size + 1)))


def _filters(connection: sqlite3.Connection, search: Search) -> _Conditions:
    made = _Conditions()
    if search.states:
        _add_one_of(made, "edits.state", [state.value for state in search.states])
    for column, value in (
        ("edits.lane", search.lane),
        ("edits.author", search.author),
        ("edits.subject", subject_key(search.subject)),
    ):
        if value:
            made.add(f"{column} = ?", value)
    if search.method:
        found = connection.execute("SELECT name FROM lanes WHERE method = ?", (search.method,))
        _add_one_of(made, "edits.lane", [name for (name,) in found])
    if search.namespace is not None:
        made.add("edits.namespace = ?", search.namespace)
    if search.sight.is_limited:
        condition, names = search.sight.condition("edits")
        made.add(condition, *names)
    if search.from_time is not None:
        made.add("edits.time >= ?", search.from_time)
    if search.until_time is not None:
        made.add("edits.time < ?", search.until_time)
    return made


def _add_one_of(made: _Conditions, column: str, values: Sequence[object]) -> None:
    made.add(f"{column} IN ({', '.join('?' * len(values))})", *values)


def _read(connection: sqlite3.Connection, number: int, score: float) -> Found:
    state, lane, place, fact, comment, data = connection.execute(
        "SELECT state, lane, place, fact, revert_comment, message FROM edits WHERE id = ?",
        (number,),
    ).fetchone()
    newest = number
    if state == State.COMMITTED.value:
        # Whoever reads an edit of a canary reads its namespace as well.
        (newest,) = connection.execute(
            "SELECT id FROM edits WHERE fact = ? AND lane = ? AND place IN (?, ?) "
            "AND commit_order IS NOT NULL ORDER BY commit_order DESC, id DESC LIMIT 1",
            (fact, lane, place, own_namespace(place)),
        ).fetchone()
    return Found(data, score, "" if newest == number else name_of("edits", newest), comment)
