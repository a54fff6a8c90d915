"""All edits, and how they relate: the same prompt, the same matter, one built upon another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from errata.editing.edit import Edit
from errata.editing.namespaces import is_canary_place, reading_for
from errata.errors import NotFoundError
from errata.log.entries import LaneConfigured
from errata.log.methods import METHODS
from errata.writer.conflicts import Conflict, ConflictIndex
from errata.writer.record import EditRecord, State, order_of

_CONFLICTING = frozenset(State) - {State.REJECTED, State.REVERTED, State.WITHDRAWN}


class RelatedEdits:
    """Answers questions about edits; `EditLedger` fills it.

    Attributes:
        lanes: name → position of its configuration, and the configuration.
    """

    def __init__(self) -> None:
        """Knows no edits."""
        self.lanes: dict[str, tuple[int, LaneConfigured]] = {}
        self._records: dict[str, EditRecord] = {}  # in log order
        self._same: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
        self._conflicts = ConflictIndex()

    def get(self, name: str) -> EditRecord:
        """One edit.

        Raises:
            NotFoundError: no such edit.
        """
        if name not in self._records:
            raise NotFoundError(
                f"there is no edit {name!r}; names look like edits/12-0. `errata log` lists them.",
                name=name,
            )
        return self._records[name]

    def records(self) -> Iterator[EditRecord]:
        """All edits in log order."""
        return iter(self._records.values())

    def active_edits(self, lane: str) -> list[Edit]:
        """The lane's active edits, in the order of their commits."""
        records = [
            record
            for record in self._records.values()
            if record.lane == lane and record.state is State.COMMITTED
        ]
        return [record.edit for record in sorted(records, key=lambda record: record.commit_seq)]

    def dependents_of(self, names: Sequence[str]) -> list[Edit]:
        """Active edits, of any lane, whose answers may come from `names`, edits of one lane.

        Their requests read the namespaces of `names`, unless the lane changes weights, which all
        requests read. They were committed later, and have the same subject or were already
        answered before their own commit, so that their fit had little to write. Superseded edits
        are left out.
        """
        records = [self._records[name] for name in names]
        first = min(record.commit_seq for record in records)
        subjects = {record.edit.subject for record in records}
        places = {record.edit.namespace for record in records}
        _, lane = self.lanes[records[0].lane]
        is_for_all = not METHODS[lane.method].namespaces
        return [
            record.edit
            for record in self._records.values()
            if record.state is State.COMMITTED
            and record.commit_seq > first
            and record.edit.name not in names
            and (is_for_all or not places.isdisjoint(reading_for(record.edit.namespace)))
            and (record.edit.subject in subjects or _was_answered(record))
            and not self.superseded_by(record)
        ]

    def superseded_by(self, record: EditRecord) -> str:
        """The newest active edit of the same prompt and lane, if another; else empty.

        It is one that each request reads which reads the edit: of the same namespace, and for an
        edit of an open canary, of the canary as well.
        """
        if record.state is not State.COMMITTED:
            return ""
        lane, place, prompt = record.fact
        rivals = [
            same[-1] for own in reading_for(place) if (same := self._same.get((lane, own, prompt)))
        ]
        newest = max(rivals, key=self._commit_order)
        return "" if newest == record.edit.name else newest

    def conflicts_of(self, edits: Sequence[Edit], lane: str) -> list[Conflict]:
        """Earlier edits on the same matter, of any lane, that are in force or waiting.

        Args:
            edits: of one request; those that have a name are compared with earlier ones only.
            lane: of all of them.
        """

        def known(edit: Edit, name: str) -> tuple[Edit, str] | None:
            record = self._records[name]
            counts = record.state in _CONFLICTING and _can_meet(edit, record.edit)
            return (record.edit, record.lane) if counts else None

        return [
            conflict
            for index, edit in enumerate(edits)
            for conflict in self._conflicts.find(index, edit, lane, known)
        ]

    def newer_than(self, record: EditRecord) -> str:
        """An edit of the same prompt and lane that was requested later and not refused, or empty.

        Proposed ones do not count: somebody still has to decide on them.
        """
        own = order_of(record.edit.name)
        for name in self._conflicts.same_prompt(record.edit):
            other = self._records[name]
            if order_of(name) <= own:
                break
            counts = other.state in _CONFLICTING and other.state is not State.PROPOSED
            if counts and other.lane == record.lane and _can_meet(record.edit, other.edit):
                return name
        return ""

    def _activate(self, name: str) -> None:
        """Notes that an edit answers its prompt from now on."""
        self._same[self._records[name].fact].append(name)

    def _deactivate(self, name: str) -> None:
        self._same[self._records[name].fact].remove(name)

    def _move(self, names: Iterable[str], namespace: str) -> None:
        """Moves edits to a namespace; there as well, the newest commit of a prompt answers."""
        for name in names:
            record = self._records[name]
            moved = replace(record, edit=replace(record.edit, namespace=namespace))
            if record.state is State.COMMITTED:
                self._deactivate(name)
                self._same[moved.fact].append(name)
                self._same[moved.fact].sort(key=self._commit_order)
            self._records[name] = moved

    def _commit_order(self, name: str) -> tuple[int, tuple[int, int]]:
        return self._records[name].commit_seq, order_of(name)


def _can_meet(edit: Edit, other: Edit) -> bool:
    """Whether one of two edits of a namespace is read wherever the other is.

    Edits of two open canaries are rival trials.
    """
    place, another = edit.namespace, other.namespace
    return place == another or not (is_canary_place(place) and is_canary_place(another))


def _was_answered(record: EditRecord) -> bool:
    return record.figures is not None and record.figures.already_answered
