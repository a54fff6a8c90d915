"""Edits and events as rows: what one entry of the log changes in the catalog's database."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from errata.catalog import edit_convert
from errata.catalog.database import id_of
from errata.catalog.happenings import Kind, micros
from errata.catalog.terms import indexed
from errata.editing.chat import texts_of
from errata.editing.lane.inventory import fact_of
from errata.editing.namespaces import place_of
from errata.errors import PreconditionError
from errata.log.canary_entries import CanaryEnded, CanarySet, Outcome
from errata.log.entries import (
    EditsCommitted,
    EditsRejected,
    EditsReleased,
    EditsRequested,
    EditsReverted,
    EditsReviewed,
    Entry,
    LaneConfigured,
    Payload,
    Verdict,
)
from errata.log.standing import Standing
from errata.writer.record import EditRecord, Review, State, order_of, review_error
from errata.writer.timetable import EXPIRED

_BY_STATE = {
    State.PROPOSED: Kind.PROPOSED,
    State.SCHEDULED: Kind.SCHEDULED,
    State.REQUESTED: Kind.REQUESTED,
}
_BY_VERDICT = {
    Verdict.APPROVED: Kind.APPROVED,
    Verdict.REJECTED: Kind.REJECTED,
    Verdict.WITHDRAWN: Kind.WITHDRAWN,
}
_FACT_BYTES = 16  # of a SHA-256: enough that no two facts share them by chance


@dataclass(frozen=True, slots=True)
class Row:
    """What an entry needs to know of an edit that it changes."""

    number: int
    lane: str
    state: State
    ends: int | None
    data: bytes
    namespace: str


def edits_named(payload: Payload) -> tuple[str, ...]:
    """The edits whose state an entry decides."""
    match payload:
        case EditsRequested(edits=edits):
            return tuple(edit.name for edit in edits)
        case EditsRejected(rejections=rejections):
            return tuple(rejection.edit for rejection in rejections)
        case (
            EditsCommitted(edits=names)
            | EditsReverted(edits=names)
            | EditsReviewed(edits=names)
            | EditsReleased(edits=names)
        ):
            return names
        case _:
            return ()


class Rows:
    """Writes rows over one connection, inside a transaction that the caller opens and ends."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Writes nothing yet."""
        self._connection = connection

    def write(self, entry: Entry, standings: Mapping[str, Standing]) -> None:
        """Writes what an entry changes.

        Args:
            entry: the next one.
            standings: of the edits that it names, behind it.
        """
        match entry.payload:
            case LaneConfigured(lane=name, method=method):
                self.add_lane(name, method)
            case EditsRequested() as kind:
                self._add_edits(entry, kind, standings)
            case EditsCommitted() as kind:
                self._commit(entry, kind)
            case EditsRejected() as kind:
                self._reject(entry, kind)
            case EditsReverted() as kind:
                self._revert(entry, kind)
            case EditsReviewed() as kind:
                self._review(entry, kind, standings)
            case EditsReleased() as kind:
                for index, name in enumerate(kind.edits):
                    row = self._row(name)
                    self._set(row, State.REQUESTED, edit_convert.with_state)
                    self._event(entry, index, Kind.RELEASED, row)
            case CanarySet() as kind:
                self._set_canary(entry, kind)
            case CanaryEnded() as kind:
                self._end_canary(entry, kind)

    def add_lane(self, name: str, method: str) -> None:
        """Notes a lane."""
        self._connection.execute("INSERT OR REPLACE INTO lanes VALUES (?, ?)", (name, method))

    def add_canary(self, name: str, lane: str, namespace: str) -> bool:
        """Notes an open canary; whether it is new."""
        added = self._connection.execute(
            "INSERT OR IGNORE INTO canaries VALUES (?, ?, ?)", (name, lane, namespace)
        )
        return added.rowcount > 0

    def add(self, record: EditRecord, method: str) -> Row:
        """Adds an edit, with all that is known of it."""
        edit, number = record.edit, id_of(*order_of(record.edit.name))
        data = edit_convert.edit_bytes(record, method)
        begins, ends = record.times.effective_from, record.times.expires_at
        is_active = record.state is State.COMMITTED
        comment = "" if record.review is None else record.review.comment
        self._connection.execute(
            "INSERT INTO edits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', ?, ?, ?)",
            (
                number,
                record.state.value,
                record.lane,
                record.author,
                subject_key(edit.subject),
                micros(record.request_time),
                fact_key(edit.said),
                id_of(record.commit_seq, 0) if is_active else None,
                None if begins is None else micros(begins),
                None if ends is None else micros(ends),
                data,
                record.namespace,
                edit.namespace,
            ),
        )
        self._connection.execute(
            "INSERT INTO texts (rowid, prompt, subject, target, rephrases, comments) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                number,
                _joined(texts_of(edit.prompt)),
                indexed(edit.subject),
                indexed(edit.target),
                _joined(text for prompt in edit.rephrases for text in texts_of(prompt)),
                _joined((record.source, comment)),
            ),
        )
        return Row(number, record.lane, record.state, None, data, record.namespace)

    def _add_edits(
        self, entry: Entry, kind: EditsRequested, standings: Mapping[str, Standing]
    ) -> None:
        found = self._connection.execute("SELECT method FROM lanes WHERE name = ?", (kind.lane,))
        (method,) = found.fetchone()
        columns = zip(kind.scheduled(), kind.sources, kind.subjects_found, strict=True)
        for index, ((edit, times), source, was_found) in enumerate(columns):
            record = EditRecord(
                edit,
                source,
                kind.lane,
                entry.author,
                entry.append_time,
                State(standings[edit.name].value),
                trace_parent=entry.trace_parent,
                subject_found=was_found,
                on_behalf_of=entry.on_behalf_of,
                times=times,
            )
            row = self.add(record, method)
            self._event(entry, index, _BY_STATE[record.state], row, author=entry.author)

    def _commit(self, entry: Entry, kind: EditsCommitted) -> None:
        for index, (name, figures) in enumerate(zip(kind.edits, kind.figures, strict=True)):
            row = self._row(name)
            data = edit_convert.with_commit(row.data, State.COMMITTED, entry.seq, figures, kind)
            self._connection.execute(
                "UPDATE edits SET state = ?, commit_order = ?, message = ? WHERE id = ?",
                (State.COMMITTED.value, id_of(entry.seq, index), data, row.number),
            )
            self._event(entry, index, Kind.COMMITTED, row)

    def _reject(self, entry: Entry, kind: EditsRejected) -> None:
        for index, rejection in enumerate(kind.rejections):
            row, error = self._row(rejection.edit), rejection.error
            self._set(row, State.REJECTED, partial(edit_convert.with_rejection, rejection))
            is_late = isinstance(error, PreconditionError) and _is_over(row, entry)
            event = Kind.EXPIRED if is_late else Kind.REJECTED
            self._event(entry, index, event, row, comment=error.message)

    def _set_canary(self, entry: Entry, kind: CanarySet) -> None:
        is_new = self.add_canary(kind.canary, kind.lane, kind.namespace)
        event = Kind.CANARY_OPENED if is_new else Kind.CANARY_CHANGED
        self._canary_event(entry, event, kind, kind.lane, kind.namespace)

    def _end_canary(self, entry: Entry, kind: CanaryEnded) -> None:
        lane, namespace = self._connection.execute(
            "SELECT lane, namespace FROM canaries WHERE name = ?", (kind.canary,)
        ).fetchone()
        self._connection.execute("DELETE FROM canaries WHERE name = ?", (kind.canary,))
        if kind.outcome is Outcome.ROLLED_BACK:
            self._canary_event(entry, Kind.CANARY_ROLLED_BACK, kind, lane, namespace)
            self._revert(entry, kind, first=1)
            return
        self._canary_event(entry, Kind.CANARY_PROMOTED, kind, lane, namespace)
        self._connection.execute(
            "UPDATE edits SET place = namespace WHERE place = ? AND place != namespace",
            (place_of(namespace, kind.canary),),
        )

    def _revert(self, entry: Entry, kind: EditsReverted | CanaryEnded, first: int = 0) -> None:
        """Reverts edits; `first` is the index of the first of their events in the entry."""
        for index, name in enumerate(kind.edits, first):
            row = self._row(name)
            if row.state is State.REVERTED:  # the first reversal counts
                continue
            data = edit_convert.with_reversal(row.data, State.REVERTED, entry.seq)
            self._connection.execute(
                "UPDATE edits SET state = ?, commit_order = NULL, revert_comment = ?, message = ? "
                "WHERE id = ?",
                (State.REVERTED.value, kind.comment, data, row.number),
            )
            self._add_comment(row, kind.comment)
            is_late = kind.comment == EXPIRED and _is_over(row, entry)
            event, author = (Kind.EXPIRED, "") if is_late else (Kind.REVERTED, entry.author)
            self._event(entry, index, event, row, author=author, comment=kind.comment)

    def _review(self, entry: Entry, kind: EditsReviewed, standings: Mapping[str, Standing]) -> None:
        review = Review(entry.seq, kind.verdict, kind.reviewer, kind.comment, entry.append_time)
        error = review_error(review) if kind.verdict is Verdict.REJECTED else None
        for index, name in enumerate(kind.edits):
            row = self._row(name)
            state = State(standings[name].value)
            self._set(row, state, partial(edit_convert.with_review, review, error))
            self._add_comment(row, kind.comment)
            self._event(
                entry,
                index,
                _BY_VERDICT[kind.verdict],
                row,
                author=kind.reviewer,
                comment=kind.comment,
            )

    def _row(self, name: str) -> Row:
        number = id_of(*order_of(name))
        found = self._connection.execute(
            "SELECT lane, state, ends, message, namespace FROM edits WHERE id = ?", (number,)
        )
        lane, state, ends, data, namespace = found.fetchone()
        return Row(number, lane, State(state), ends, data, namespace)

    def _set(self, row: Row, state: State, change: Callable[[bytes, State], bytes]) -> None:
        self._connection.execute(
            "UPDATE edits SET state = ?, message = ? WHERE id = ?",
            (state.value, change(row.data, state), row.number),
        )

    def _add_comment(self, row: Row, comment: str) -> None:
        if comment:
            self._connection.execute(
                "UPDATE texts SET comments = comments || char(10) || ? WHERE rowid = ?",
                (indexed(comment), row.number),
            )

    def _event(
        self,
        entry: Entry,
        index: int,
        kind: Kind,
        row: Row,
        *,
        author: str = "",
        comment: str = "",
    ) -> None:
        self._connection.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, '', ?, '')",
            (
                id_of(entry.seq, index),
                kind.value,
                micros(entry.append_time),
                row.number,
                row.lane,
                author,
                comment,
                row.namespace,
            ),
        )

    def _canary_event(
        self, entry: Entry, kind: Kind, said: CanarySet | CanaryEnded, lane: str, namespace: str
    ) -> None:
        when = micros(entry.append_time)
        self._connection.execute(
            "INSERT INTO events VALUES (?, ?, ?, NULL, ?, ?, ?, '', ?, ?)",
            (
                *(id_of(entry.seq, 0), kind.value, when, lane, entry.author, said.comment),
                *(namespace, said.canary),
            ),
        )


def subject_key(subject: str) -> str:
    """What equal subjects share, whatever their case."""
    return unicodedata.normalize("NFC", subject).strip().casefold()


def fact_key(said: str) -> bytes:
    """What edits of the same prompt share."""
    return bytes.fromhex(fact_of(said))[:_FACT_BYTES]


def _joined(texts: Iterable[str]) -> str:
    return indexed("\n".join(filter(None, texts)))


def _is_over(row: Row, entry: Entry) -> bool:
    return row.ends is not None and micros(entry.append_time) >= row.ends
