"""Canaries as the writer knows them: who is in them, since when, and which edits they have."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from errata.editing.edit import Edit
from errata.editing.namespaces import place_of
from errata.log.canary_entries import (
    CanaryComparison,
    CanaryEnded,
    CanaryRule,
    CanarySet,
    Outcome,
)
from errata.log.entries import Entry


@dataclass(frozen=True, slots=True)
class CanaryRecord:
    """A canary and its state.

    Attributes:
        name: `canaries/{canary}`.
        lane: of its edits.
        namespace: of its edits.
        share_ppm: share of the requests that read the namespace, in parts per million.
        readers: requests that read one of these namespaces as well are in it.
        rule: ends it by itself; None if only people end it. Of one that was rolled back, share,
            readers and rule are the last with which a request could be in it.
        comment: of the newest entry about it that has one.
        author: who opened it.
        opened_seq: of the entry that opened it.
        open_time: of that entry.
        set_seq: of the entry that last set its audience or rule.
        set_time: of that entry.
        set_by: author of that entry.
        audience_time: since when it has its present audience.
        outcome: None while it is open.
        ended_seq: of the entry that ended it; 0 while it is open.
        end_time: of that entry; None while it is open.
        ended_by: author of that entry; empty while it is open.
        comparison: what that entry says that replicas had counted; None if nothing.
        rolling_back: whether a roll-back has begun; `set_by` began it, and `comment` says why.
        before: share, readers and rule before an entry from which on nobody is in it; a roll-back
            begins with one. None if somebody can be in it, or never could.
    """

    name: str
    lane: str
    namespace: str
    share_ppm: int
    readers: tuple[str, ...]
    rule: CanaryRule | None
    comment: str
    author: str
    opened_seq: int
    open_time: datetime
    set_seq: int
    set_time: datetime
    set_by: str
    audience_time: datetime
    outcome: Outcome | None = None
    ended_seq: int = 0
    end_time: datetime | None = None
    ended_by: str = ""
    comparison: CanaryComparison | None = None
    rolling_back: bool = False
    before: tuple[int, tuple[str, ...], CanaryRule | None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.outcome is None

    @property
    def place(self) -> str:
        """Where its edits lie while it is open."""
        return place_of(self.namespace, self.name)

    @property
    def has_audience(self) -> bool:
        """Whether a request can be in it."""
        return bool(self.share_ppm or self.readers)

    @classmethod
    def opened(cls, entry: Entry, kind: CanarySet) -> CanaryRecord:
        """The canary that an entry opens."""
        return cls(
            kind.canary,
            kind.lane,
            kind.namespace,
            kind.share_ppm,
            kind.readers,
            kind.rule,
            kind.comment,
            author=entry.author,
            opened_seq=entry.seq,
            open_time=entry.append_time,
            set_seq=entry.seq,
            set_time=entry.append_time,
            set_by=entry.author,
            audience_time=entry.append_time,
        )

    def changed(self, entry: Entry, kind: CanarySet) -> CanaryRecord:
        """The canary behind an entry that sets its audience or rule."""
        is_same = (kind.share_ppm, kind.readers) == (self.share_ppm, self.readers)
        now = (self.share_ppm, self.readers, self.rule) if self.has_audience else self.before
        has_audience = bool(kind.share_ppm or kind.readers)
        return replace(
            self,
            share_ppm=kind.share_ppm,
            readers=kind.readers,
            rule=kind.rule,
            comment=kind.comment if kind.rolls_back else kind.comment or self.comment,
            set_seq=entry.seq,
            set_time=entry.append_time,
            set_by=entry.author,
            audience_time=self.audience_time if is_same else entry.append_time,
            rolling_back=kind.rolls_back,
            before=None if has_audience else now,
        )


class CanaryBook:
    """All canaries, open and ended."""

    def __init__(self) -> None:
        """Holds none."""
        self._records: dict[str, CanaryRecord] = {}  # in the order in which they were opened
        self._edits: defaultdict[str, list[str]] = defaultdict(list)
        self._open: dict[str, None] = {}  # names, in the same order

    @property
    def has_open(self) -> bool:
        """Whether one has not ended."""
        return bool(self._open)

    def __iter__(self) -> Iterator[CanaryRecord]:
        """All of them, newest first; any thread can call it."""
        return reversed(list(self._records.values()))

    def get(self, name: str) -> CanaryRecord | None:
        """One canary; None if there never was one of this name."""
        return self._records.get(name)

    def open_ones(self) -> list[CanaryRecord]:
        """Those that have not ended, newest first; any thread can call it."""
        return [self._records[name] for name in reversed(list(self._open))]

    def edits_of(self, name: str) -> Sequence[str]:
        """The names of a canary's edits, whatever their state, in log order."""
        return self._edits.get(name, ())

    def add(self, edit: Edit) -> None:
        """Notes an edit, which is newer than all others."""
        if edit.canary:
            self._edits[edit.canary].append(edit.name)

    def put(self, entry: Entry, kind: CanarySet) -> None:
        """Opens or changes a canary."""
        known = self._records.get(kind.canary)
        self._records[kind.canary] = (
            CanaryRecord.opened(entry, kind) if known is None else known.changed(entry, kind)
        )
        self._open.setdefault(kind.canary)

    def end(self, entry: Entry, kind: CanaryEnded) -> CanaryRecord:
        """Ends a canary; returns what it was.

        Raises:
            KeyError: there is none of this name.
        """
        known = self._records[kind.canary]
        shown = known.share_ppm, known.readers, known.rule
        if kind.outcome is Outcome.ROLLED_BACK and known.before is not None:
            shown = known.before
        self._records[kind.canary] = replace(
            known,
            share_ppm=shown[0],
            readers=shown[1],
            rule=shown[2],
            comment=kind.comment or known.comment,
            outcome=kind.outcome,
            ended_seq=entry.seq,
            end_time=entry.append_time,
            ended_by=entry.author,
            comparison=kind.comparison,
        )
        del self._open[kind.canary]
        return known

    def capture(self) -> tuple[CanaryRecord, ...]:
        """All of them, which later entries leave as they are, in the order of their opening."""
        return tuple(self._records.values())

    def restore(self, records: Iterable[CanaryRecord]) -> None:
        """Holds what `capture` gave; their edits are added by `add`."""
        self._records = {record.name: record for record in records}
        self._open = {name: None for name, record in self._records.items() if record.is_open}


def decision_digest(kind: CanarySet | CanaryEnded, author: str) -> str:
    """SHA-256 of what somebody asked for, by which a retry is told from another request.

    A retry need not find the edits and counts that the entry lists. Who asks for a roll-back gets
    the entry that begins it under the id of the request.
    """
    said: list[object]
    match kind:
        case CanarySet(rolls_back=True):
            said = [kind.canary, Outcome.ROLLED_BACK.value]
        case CanarySet():
            rule = None if kind.rule is None else asdict(kind.rule)
            said = [kind.canary, kind.lane, kind.namespace, kind.share_ppm, kind.readers, rule]
        case CanaryEnded():
            said = [kind.canary, kind.outcome.value]
    text = json.dumps([*said, kind.comment, author])
    return hashlib.sha256(text.encode()).hexdigest()
