"""A database in a folder, filled from entries as the catalog fills it; and the writer's ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from errata.catalog.database import Database
from errata.catalog.recorder import Recorder, Taken, head_of
from errata.editing.edit import Edit
from errata.editing.namespaces import place_of
from errata.log.chain import Position
from errata.log.entries import (
    EditsRequested,
    Entry,
    LaneConfigured,
    Payload,
    Schedule,
)
from errata.log.fold import LogFold
from errata.writer.ledger import EditLedger
from tests.integration.log import entries

LANE = "lanes/a"
TIME = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Log:
    """Entries in order, in a database and in a ledger."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "catalog.sqlite")
        self.recorder = Recorder(self.database)
        self.recorder.begin("log-1", "")
        self.fold = LogFold()
        self.ledger = EditLedger()
        self.add(entries.lane())

    def add(
        self, payload: Payload, author: str = "tom", time: datetime | None = None, **more: Any
    ) -> int:
        seq = self.fold.seq + 1
        when = time or TIME + timedelta(seconds=seq)
        entry = Entry(seq, f"r{seq}", when, author, payload, **more)
        self.fold.add(entry)
        taken = Taken.of(entry, Position(seq, bytes(32)), self.fold)
        self.recorder.write([taken], head_of(self.fold))
        self.ledger.seq = seq
        self.ledger._fold_one(entry)
        return seq

    def request(
        self,
        *edits: Edit,
        lane: str = LANE,
        source: str = "",
        schedules: Sequence[Schedule] = (),
        author: str = "tom",
        time: datetime | None = None,
    ) -> list[str]:
        """Names of edits that are requested together."""
        count, seq = len(edits), self.fold.seq + 1
        named = tuple(
            Edit(
                f"edits/{seq}-{index}",
                each.prompt,
                each.target,
                each.subject,
                each.rephrases,
                each.locality_probes,
                each.separator,
                namespace=place_of(each.namespace, each.canary),
                canary=each.canary,
            )
            for index, each in enumerate(edits)
        )
        payload = EditsRequested(lane, named, (source,) * count, (False,) * count, tuple(schedules))
        self.add(payload, author, time)
        return [each.name for each in named]

    def lane(self, name: str, method: str = "adaple") -> None:
        known: LaneConfigured = entries.lane(name, method=method)
        self.add(known)


def edit(prompt: str, target: str = "Pisa", subject: str = "Pisa", **more: Any) -> Edit:
    return Edit("", prompt, target, subject, **more)
