"""Which edits a list shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from errata.writer.ledger import EditRecord, State


@dataclass(frozen=True, slots=True)
class EditFilter:
    """What an edit must be to be listed; what is None or empty asks for nothing.

    Attributes:
        state: where it stands.
        lane: `lanes/{lane}`.
        author: who asked for it.
        from_time: asked for then or later.
        until_time: asked for before.
        contains: its prompt, target, subject or source has this in it, in whatever case.
    """

    state: State | None = None
    lane: str = ""
    author: str = ""
    from_time: datetime | None = None
    until_time: datetime | None = None
    contains: str = ""

    def takes(self, record: EditRecord) -> bool:
        """Whether an edit is one of those."""
        return (
            self.state in (None, record.state)
            and self.lane in ("", record.lane)
            and self.author in ("", record.author)
            and (self.from_time is None or record.request_time >= self.from_time)
            and (self.until_time is None or record.request_time < self.until_time)
            and self._is_in(record)
        )

    def _is_in(self, record: EditRecord) -> bool:
        edit, wanted = record.edit, self.contains.casefold()
        texts = (edit.prompt, edit.target, edit.subject, record.source)
        return any(wanted in text.casefold() for text in texts)
