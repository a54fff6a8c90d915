"""Counts of answers that edits shaped, by hour, as gateways report them."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass

from errata.catalog.database import Database
from errata.catalog.sight import Sight
from errata.platform.paging import number_of_token, page_token

HOUR_SECONDS = 3_600
_DAY_SECONDS = 86_400
_REPORTER_DAYS = 7.0  # a gateway that was silent for so long has ended


@dataclass(frozen=True, slots=True)
class Counted:
    """Answers that one edit shaped in one hour.

    Attributes:
        edit: id of the edit.
        hour: hours since 1970.
        answers: how many.
    """

    edit: int
    hour: int
    answers: int


@dataclass(frozen=True, slots=True)
class Report:
    """What one gateway counted.

    Attributes:
        reporter: the gateway, unique for each of its starts.
        number: of the report, ascending; one that was sent again keeps it.
        counts: since the report before.
    """

    reporter: str
    number: int
    counts: tuple[Counted, ...]


@dataclass(frozen=True, slots=True)
class ShapedCount:
    """How many answers an edit shaped in a span of time.

    Attributes:
        edit: id of the edit.
        answers: how many.
        last_hour: hour of the last one, in hours since 1970.
    """

    edit: int
    answers: int
    last_hour: int


def add_report(database: Database, report: Report, keep_days: int) -> bool:
    """Adds a gateway's counts once, and drops those that are too old.

    Returns:
        Whether they are new; not if the same report was stored before.
    """
    now = time.time()
    with database.change() as connection:
        found = connection.execute(
            "SELECT number FROM reporters WHERE name = ?", (report.reporter,)
        ).fetchone()
        if found is not None and found[0] >= report.number:
            return False
        connection.execute(
            "INSERT OR REPLACE INTO reporters VALUES (?, ?, ?)",
            (report.reporter, report.number, now),
        )
        connection.execute(
            "DELETE FROM reporters WHERE heard < ?", (now - _REPORTER_DAYS * _DAY_SECONDS,)
        )
        connection.executemany(
            "INSERT INTO shaped VALUES (?, ?, ?) "
            "ON CONFLICT (hour, edit) DO UPDATE SET answers = answers + excluded.answers",
            [(each.hour, each.edit, each.answers) for each in report.counts],
        )
        oldest = int(now / HOUR_SECONDS) - keep_days * (_DAY_SECONDS // HOUR_SECONDS)
        connection.execute("DELETE FROM shaped WHERE hour < ?", (oldest,))
    return True


def shaped_counts(
    connection: sqlite3.Connection,
    hours: range,
    sight: Sight,
    size: int,
    token: str,
) -> tuple[list[ShapedCount], str]:
    """A page of edits by number of answers, most first, and the next page's token.

    Args:
        connection: to read over.
        hours: since 1970.
        sight: what the caller may see.
        size: of the page.
        token: of an earlier page.

    Raises:
        InvalidRequestError: the token is not of these hours.
    """
    kind = f"shaped-{hours.start}-{hours.stop}"
    offset = number_of_token(kind, token) if token else 0
    joined, values = "", list[object]([hours.start, hours.stop])
    condition = "hour >= ? AND hour < ?"
    if sight.is_limited:
        joined = " JOIN edits ON edits.id = shaped.edit"
        visible, names = sight.condition("edits")
        condition += f" AND {visible}"
        values += names
    rows = connection.execute(
        f"SELECT edit, sum(answers) AS total, max(hour) FROM shaped{joined} WHERE {condition} "
        "GROUP BY edit ORDER BY total DESC, edit DESC LIMIT ? OFFSET ?",
        (*values, size + 1, offset),
    ).fetchall()
    more = page_token(kind, str(offset + size)) if len(rows) > size else ""
    return [ShapedCount(*row) for row in rows[:size]], more
