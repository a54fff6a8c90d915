"""Whose a database is, and what stays when it is made again."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from errata.catalog.database import VERSION, Database, limited
from errata.catalog.recorder import Recorder
from errata.catalog.shaped import Counted, Report, add_report, shaped_counts
from errata.catalog.sight import Sight
from errata.catalog.webhooks.delivery import Progress, begin, save
from errata.errors import DeadlineExceededError, InvalidRequestError, StartupError
from tests.unit.catalog.memory import Log, edit

HOUR = 480_000


def test_a_newer_version_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    first = Database(path)
    with first.change():
        first.put("version", VERSION + 1)
    first.close()
    with pytest.raises(StartupError, match=r"version 3.*Upgrade it, or name another file"):
        Database(path)
    with sqlite3.connect(path) as connection:
        (version,) = connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
    connection.close()
    assert version == VERSION + 1


def test_what_is_no_database_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"no database at all" * 1_000)
    with pytest.raises(StartupError, match="remove it: it is made again"):
        Database(path)
    with pytest.raises(StartupError, match="cannot be used"):
        Database(path / "below" / "a file")


def test_positions_of_webhooks_and_counts_stay_when_it_is_made_again(log: Log) -> None:
    (name,) = log.request(edit("Pisa is in"))
    seq, number = log.fold.seq, log.fold.seq << 20
    save(log.database, "ops", Progress(number, 3, 7.0))
    assert add_report(log.database, Report("g1", 1, (Counted(number, HOUR, 5),)), 10**6)
    Recorder(log.database).begin("log-2", "")
    assert log.database.held.log_id == "log-2"
    assert log.database.held.position.seq == 0
    counts, _ = shaped_counts(log.database.connection, range(HOUR, HOUR + 1), Sight(), 10, "")
    assert [(count.edit, count.answers) for count in counts] == [(number, 5)]
    found = log.database.connection.execute("SELECT delivered, failures FROM targets").fetchone()
    assert found == (number, 3)
    # The new log ends before that: what it gets from now on must not be left out.
    assert begin(log.database, "ops").delivered == 0
    assert (name, seq) == ("edits/2-0", 2)


def test_a_new_target_begins_behind_what_has_happened(log: Log) -> None:
    log.request(edit("Pisa is in"))
    assert begin(log.database, "ops").delivered == log.fold.seq << 20
    log.request(edit("Pisa was in"))
    assert begin(log.database, "ops").delivered == (log.fold.seq - 1) << 20


def test_positions_of_an_earlier_database_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE targets (name TEXT PRIMARY KEY, delivered INTEGER NOT NULL, failures "
            "INTEGER NOT NULL, next_attempt REAL NOT NULL) WITHOUT ROWID"
        )
        connection.execute("INSERT INTO targets VALUES ('ops', 0, 3, 7.0)")
    connection.close()
    database = Database(path)
    assert begin(database, "ops") == Progress(0, 3, 7.0, 0.0)
    save(database, "ops", Progress(0, 4, 8.0, 6.0))
    database.close()
    assert begin(Database(path), "ops") == Progress(0, 4, 8.0, 6.0)


def test_a_report_that_is_sent_again_counts_once(log: Log) -> None:
    (first,) = log.request(edit("Pisa is in"))
    assert first == "edits/2-0"
    number = 2 << 20
    hours, keep = range(HOUR - 1, HOUR + 2), 10**6
    report = Report("g1", 1, (Counted(number, HOUR, 5), Counted(number + 1, HOUR, 1)))
    assert add_report(log.database, report, keep)
    assert not add_report(log.database, report, keep)
    assert add_report(log.database, Report("g1", 2, (Counted(number, HOUR, 2),)), keep)
    assert add_report(log.database, Report("g2", 1, (Counted(number, HOUR + 1, 3),)), keep)
    counts, more = shaped_counts(log.database.connection, hours, Sight(), 1, "")
    assert [(each.edit, each.answers, each.last_hour) for each in counts] == [
        (number, 10, HOUR + 1)
    ]
    rest, end = shaped_counts(log.database.connection, hours, Sight(), 1, more)
    assert [(each.edit, each.answers) for each in rest] == [(number + 1, 1)]
    assert not end
    seen, _ = shaped_counts(log.database.connection, hours, Sight(frozenset({"b"})), 9, "")
    assert not seen, "edits of other lanes are not the caller's"
    seen, _ = shaped_counts(log.database.connection, hours, Sight(frozenset({"a"})), 9, "")
    assert [each.edit for each in seen] == [number]
    with pytest.raises(InvalidRequestError, match="page_token"):
        shaped_counts(log.database.connection, range(1, 2), Sight(), 1, more)


def test_counts_are_dropped_after_their_days(log: Log) -> None:
    now = int(time.time() // 3_600)
    old = Report("g1", 1, (Counted(1, now - 49, 1), Counted(2, now, 1)))
    add_report(log.database, old, 2)
    counts, _ = shaped_counts(log.database.connection, range(now + 1), Sight(), 10, "")
    assert [count.edit for count in counts] == [2]


def test_a_query_ends_at_its_deadline(log: Log) -> None:
    endless = (
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    )
    with (
        pytest.raises(DeadlineExceededError, match="narrow it, or allow more time"),
        limited(log.database.connection, time.monotonic() + 0.05),
    ):
        log.database.connection.execute(endless)
    assert log.database.connection.execute("SELECT 1").fetchone() == (1,)
