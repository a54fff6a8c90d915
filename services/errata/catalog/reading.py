"""Reads events in order."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from errata.catalog.happenings import Event, Kind
from errata.catalog.sight import Sight

_PAGE = 500


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are wanted; empty and None are no condition.

    Attributes:
        kinds: any of these.
        edit: id of an edit.
        sight: what the caller may see. Events of replicas are everybody's.
    """

    kinds: frozenset[Kind] = frozenset()
    edit: int | None = None
    sight: Sight = field(default_factory=Sight)


def events_after(
    connection: sqlite3.Connection, after: int, wanted: EventFilter, limit: int = _PAGE
) -> list[Event]:
    """The next events behind the one with the id `after`, in order; at most `limit`."""
    parts, values = ["id > ?"], list[object]([after])
    if wanted.kinds:
        parts.append(f"kind IN ({', '.join('?' * len(wanted.kinds))})")
        values += sorted(kind.value for kind in wanted.kinds)
    if wanted.edit is not None:
        parts.append("edit = ?")
        values.append(wanted.edit)
    if wanted.sight.is_limited:
        condition, names = wanted.sight.condition("events")
        parts.append(f"(replica != '' OR ({condition}))")
        values += names
    rows = connection.execute(
        "SELECT id, kind, time, edit, lane, author, comment, replica, namespace, canary "
        f"FROM events WHERE {' AND '.join(parts)} ORDER BY id LIMIT ?",
        (*values, limit),
    )
    return [Event(row[0], Kind(row[1]), *row[2:]) for row in rows]


def newest_event(connection: sqlite3.Connection) -> int:
    """The id of the last event; 0 without one."""
    (found,) = connection.execute("SELECT max(id) FROM events").fetchone()
    return int(found or 0)
