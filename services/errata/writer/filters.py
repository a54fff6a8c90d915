"""Filters for lists of edits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from errata.editing.chat import texts_of
from errata.writer.record import EditRecord, State


@dataclass(frozen=True, slots=True)
class EditFilter:
    """Conditions that a listed edit meets; None or an empty text is no condition.

    Attributes:
        state: of the edit.
        lane: `lanes/{lane}`.
        author: who asked for it.
        from_time: requested at this time or later.
        until_time: requested before this time.
        namespace: of the edit; the empty text is the default namespace, None all of them.
        canary: that it was submitted to, `canaries/{canary}`.
        contains: occurs in its prompt, target, subject or source, ignoring case.
    """

    state: State | None = None
    lane: str = ""
    author: str = ""
    from_time: datetime | None = None
    until_time: datetime | None = None
    contains: str = ""
    namespace: str | None = None
    canary: str = ""

    def matches(self, record: EditRecord) -> bool:
        """Whether an edit meets all conditions."""
        return (
            self.state in (None, record.state)
            and self.lane in ("", record.lane)
            and self.author in ("", record.author)
            and self.namespace in (None, record.namespace)
            and self.canary in ("", record.edit.canary)
            and (self.from_time is None or record.request_time >= self.from_time)
            and (self.until_time is None or record.request_time < self.until_time)
            and self._is_in(record)
        )

    def _is_in(self, record: EditRecord) -> bool:
        edit, wanted = record.edit, self.contains.casefold()
        texts = (*texts_of(edit.prompt), edit.target, edit.subject, record.source)
        return any(wanted in text.casefold() for text in texts)
