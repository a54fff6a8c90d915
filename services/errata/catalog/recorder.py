"""Writes entries of the log into the catalog's database, with the position that they make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from errata.catalog.database import Database, id_of, name_of
from errata.catalog.happenings import Event
from errata.catalog.rows import Rows, edits_named
from errata.log.chain import Position
from errata.log.entries import Entry
from errata.log.fold import LogFold
from errata.log.fold_json import fold_from_json, head_to_json, lanes_to_json
from errata.log.standing import Standing
from errata.writer.record import LedgerState, State


@dataclass(frozen=True, slots=True)
class Taken:
    """An entry to write.

    Attributes:
        entry: decoded.
        position: of a reader that has applied it.
        standings: of the edits that it names, behind it.
    """

    entry: Entry
    position: Position
    standings: Mapping[str, Standing]

    @classmethod
    def of(cls, entry: Entry, position: Position, fold: LogFold) -> Taken:
        """Looks up what the entry needs in the fold behind it."""
        names = edits_named(entry.payload)
        return cls(entry, position, {name: fold.known(name).standing for name in names})


class Recorder:
    """Changes the database; one thread uses it."""

    def __init__(self, database: Database) -> None:
        """Writes nothing yet."""
        self._database = database
        self._rows = Rows(database.connection)

    def write(self, taken: Sequence[Taken], head: Mapping[str, str]) -> None:
        """Writes consecutive entries in one transaction.

        Args:
            taken: at least one.
            head: of the fold behind the last one, by `head_of`.
        """
        with self._database.change():
            for each in taken:
                self._rows.write(each.entry, each.standings)
            self._put_position(taken[-1].position, head)

    def begin(self, log_id: str, pins: str) -> None:
        """Empties the database for a log, which is written from its first entry on."""
        self._database.clear()
        with self._database.change():
            self._put_log(log_id, pins, events_from=1)
            self._put_position(Position(0, bytes(32)), head_of(LogFold()))

    def begin_from(
        self, log_id: str, pins: str, position: Position, fold: LogFold, ledger: LedgerState
    ) -> None:
        """Empties the database, and writes what a snapshot holds."""
        self._database.clear()
        with self._database.change():
            for lane in fold.lanes.values():
                self._rows.add_lane(lane.lane, lane.method)
            for canary in fold.canaries.open.values():
                self._rows.add_canary(canary.name, canary.lane, canary.namespace)
            for record in ledger.records:
                self._rows.add(record, fold.lanes[record.lane].method)
            self._put_log(log_id, pins, events_from=position.seq + 1)
            self._put_position(position, head_of(fold))

    def note_replicas(self, events: Sequence[Event]) -> None:
        """Adds events of replicas behind all others."""
        with self._database.change() as connection:
            seq = int(self._database.value("seq"))
            found = connection.execute(
                "SELECT max(id) FROM events WHERE id BETWEEN ? AND ?",
                (id_of(seq, 0), id_of(seq + 1, 0) - 1),
            ).fetchone()[0]
            first = id_of(seq, 0) if found is None else found + 1
            connection.executemany(
                "INSERT INTO events VALUES (?, ?, ?, NULL, '', '', ?, ?, '', '')",
                [
                    (first + index, each.kind.value, each.time, each.comment, each.replica)
                    for index, each in enumerate(events)
                ],
            )

    def fold(self) -> LogFold:
        """The fold of the entries that the database holds."""
        database = self._database
        head = json.loads(str(database.value("fold")))
        lanes = json.loads(str(database.value("lanes")))
        waiting = database.connection.execute(
            "SELECT id FROM edits WHERE state = ? AND begins IS NOT NULL", (State.PROPOSED.value,)
        )
        timed = [name_of("edits", number) for (number,) in waiting]
        fold = fold_from_json({**head, "lanes": lanes, "timed": timed, "edits": ()})
        found = database.connection.execute("SELECT id, lane, state, place FROM edits ORDER BY id")
        fold.restore_standings((name_of("edits", number), *known) for number, *known in found)
        return fold

    def _put_log(self, log_id: str, pins: str, *, events_from: int) -> None:
        self._database.put("log_id", log_id)
        self._database.put("pins", pins)
        self._database.put("events_from", events_from)

    def _put_position(self, position: Position, head: Mapping[str, str]) -> None:
        self._database.put("seq", position.seq)
        self._database.put("digest", position.chain_digest)
        for key, value in head.items():
            self._database.put(key, value)


def head_of(fold: LogFold) -> dict[str, str]:
    """What the database keeps of a fold beside the rows of its edits."""
    head = head_to_json(fold)
    head.pop("timed", None)  # rows have it
    return {"fold": json.dumps(head), "lanes": json.dumps(lanes_to_json(fold))}
