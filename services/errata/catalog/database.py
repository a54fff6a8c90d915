"""The catalog's SQLite file: its tables, who it belongs to, and how it is opened.

All but the tables of `_KEPT` can be made again from the log. They are, when the file is of another
log, of another version of the tables, or of other pinned keys.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from errata.errors import DeadlineExceededError, StartupError
from errata.log.chain import ORIGIN, Position

VERSION = 3
"""Of the tables. A file of a newer version is refused: its kept tables may differ."""
INDEX_BITS = 20
"""An id is seq * 2**20 + index, so that ids are in log order."""
_BUSY_SECONDS = 30.0
_LOOK_STEPS = 20_000  # of SQLite's machine, between two looks at the clock

_KEPT = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS targets (
    name TEXT PRIMARY KEY, delivered INTEGER NOT NULL, failures INTEGER NOT NULL,
    next_attempt REAL NOT NULL, failing_since REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shaped (
    hour INTEGER, edit INTEGER, answers INTEGER NOT NULL, PRIMARY KEY (hour, edit)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reporters (
    name TEXT PRIMARY KEY, number INTEGER NOT NULL, heard REAL NOT NULL
) WITHOUT ROWID;
"""
# `place`: the namespace, or that of the edit's open canary. `canaries`: the open ones.
# `categories`: letters, numbers, private use, and symbols such as emoji make words.
_MADE = """
CREATE TABLE edits (
    id INTEGER PRIMARY KEY, state TEXT NOT NULL, lane TEXT NOT NULL, author TEXT NOT NULL,
    subject TEXT NOT NULL, time INTEGER NOT NULL, fact BLOB NOT NULL, commit_order INTEGER,
    begins INTEGER, ends INTEGER, revert_comment TEXT NOT NULL DEFAULT '', message BLOB NOT NULL,
    namespace TEXT NOT NULL, place TEXT NOT NULL
);
CREATE INDEX edits_by_state ON edits (state, id);
CREATE INDEX edits_by_lane ON edits (lane, id);
CREATE INDEX edits_by_namespace ON edits (namespace, id);
CREATE INDEX edits_by_author ON edits (author, id);
CREATE INDEX edits_by_subject ON edits (subject, id);
CREATE INDEX edits_by_time ON edits (time, id);
CREATE INDEX edits_by_fact ON edits (fact, lane, place, commit_order)
    WHERE commit_order IS NOT NULL;
CREATE INDEX edits_by_canary ON edits (place) WHERE place != namespace;
CREATE VIRTUAL TABLE texts USING fts5 (
    prompt, subject, target, rephrases, comments,
    tokenize = "unicode61 remove_diacritics 2 categories 'L* N* Co So'"
);
INSERT INTO texts (texts, rank) VALUES ('rank', 'bm25(2.0, 4.0, 3.0, 1.0, 1.0)');
CREATE TABLE lanes (name TEXT PRIMARY KEY, method TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE canaries (
    name TEXT PRIMARY KEY, lane TEXT NOT NULL, namespace TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, time INTEGER NOT NULL, edit INTEGER, lane TEXT NOT
    NULL, author TEXT NOT NULL, comment TEXT NOT NULL, replica TEXT NOT NULL,
    namespace TEXT NOT NULL DEFAULT '', canary TEXT NOT NULL DEFAULT ''
);
CREATE INDEX events_by_edit ON events (edit, id) WHERE edit IS NOT NULL;
"""
_MADE_TABLES = ("edits", "texts", "lanes", "canaries", "events")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """What a database holds.

    Attributes:
        log_id: of its log; empty if it holds nothing yet.
        position: the last entry that it holds.
        events_from: first position whose events it knows.
        pins: the pinned keys under which it was made.
    """

    log_id: str = ""
    position: Position = ORIGIN
    events_from: int = 1
    pins: str = ""


class Database:
    """One file. Changes are one thread's; any thread can read, each over its own connection."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it.

        Raises:
            StartupError: it cannot be used, or a newer version made it.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = self._connect()
            self.connection.executescript(_KEPT)
            self._add_columns()
            version = self.value("version")
        except (OSError, sqlite3.Error) as error:
            raise StartupError(
                f"the catalog's database {path} cannot be used: {error}. If it is damaged, remove "
                "it: it is made again from the log, without the positions of webhooks and the "
                "counts of answers.",
                path=path,
            ) from error
        if version is not None and int(version) > VERSION:
            self.connection.close()
            raise StartupError(
                f"the catalog's database {path} has version {version}, and this catalog writes "
                f"version {VERSION}. Upgrade it, or name another file in catalog.database.",
                path=path,
            )
        if version is None or int(version) < VERSION:
            self.clear()

    def close(self) -> None:
        """Closes the connection that changes it."""
        self.connection.close()

    @property
    def held(self) -> Held:
        """What it holds."""
        log_id = self.value("log_id")
        if log_id is None:
            return Held()
        digest = bytes(self.value("digest"))
        return Held(
            str(log_id),
            Position(int(self.value("seq")), digest),
            int(self.value("events_from")),
            str(self.value("pins")),
        )

    def clear(self) -> None:
        """Empties all that can be made again from the log."""
        with self.change() as connection:
            for table in _MADE_TABLES:
                connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute("DELETE FROM meta")
            for statement in _MADE.split(";\n"):
                connection.execute(statement)
            self.put("version", VERSION)

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction; it is undone if an exception leaves the block."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def put(self, key: str, value: object) -> None:
        """Sets a value of `meta`; call it inside `change`."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def value(self, key: str) -> Any:
        """A value of `meta`; None if it is not set."""
        found = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def reader(self) -> sqlite3.Connection:
        """A connection that only reads; any thread can use it, one at a time."""
        connection = self._connect()
        connection.execute("PRAGMA query_only = 1")
        return connection

    def _add_columns(self) -> None:
        """Adds to a kept table what earlier ones lack."""
        columns = self.connection.execute("SELECT name FROM pragma_table_info('targets')")
        if ("failing_since",) not in columns.fetchall():
            self.connection.execute(
                "ALTER TABLE targets ADD COLUMN failing_since REAL NOT NULL DEFAULT 0"
            )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        # After a power failure the last entries may be missing here; they are read again.
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection


def id_of(seq: int, index: int) -> int:
    """The id of what stands at this place of an entry."""
    return (seq << INDEX_BITS) | index


def place_of(number: int) -> tuple[int, int]:
    """Position and index of an id."""
    return number >> INDEX_BITS, number & ((1 << INDEX_BITS) - 1)


def name_of(collection: str, number: int) -> str:
    """The resource name of an id, such as `edits/12-0`."""
    seq, index = place_of(number)
    return f"{collection}/{seq}-{index}"


@contextmanager
def limited(connection: sqlite3.Connection, deadline: float | None) -> Iterator[None]:
    """Ends statements inside at `deadline`, seconds of `time.monotonic`; not if it is None.

    Raises:
        DeadlineExceededError: one was ended.
    """
    if deadline is None:
        yield
        return
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _LOOK_STEPS)
    try:
        yield
    except sqlite3.OperationalError as error:
        if time.monotonic() <= deadline:
            raise
        raise DeadlineExceededError(
            "the search took longer than the call's deadline; narrow it, or allow more time."
        ) from error
    finally:
        connection.set_progress_handler(None, 0)
