"""The tip: the last entry that a log service appended or verified."""

from __future__ import annotations

from dataclasses import replace

import structlog

from errata.errors import LogBehindWitnessError
from errata.log.acknowledged import Acknowledged
from errata.log.admission import Admission
from errata.log.archive.records import Records
from errata.log.chain import ChainedEntry, Position
from errata.log.entries import SnapshotTaken
from errata.log.history import advance
from errata.log.witness import WitnessRecord

_log = structlog.get_logger(__name__)


class Tip:
    """Follows the log in Redis; whoever calls it holds the log's lock.

    A failover of Redis can take the tip back to what was acknowledged, but not further.

    Attributes:
        known: its head is the tip.
        admission: the fold of the entries up to there, once `reach` or `advance` has returned.
    """

    def __init__(
        self, records: Records, known: WitnessRecord, admission: Admission, acked: Acknowledged
    ) -> None:
        """Starts at `known`, which `admission` has reached; `acked` limits how far it goes back."""
        self.known = known
        self.admission = admission
        self._records = records
        self._acknowledged = acked

    async def reach(self) -> Position:
        """Lets `admission` fold all up to the tip, which is returned.

        Raises:
            LogBehindWitnessError: Redis lost or changed acknowledged entries.
            LogUnavailableError: Redis does not answer.
        """
        try:
            await self.admission.catch_up(self.known.head)
        except LogBehindWitnessError as error:
            await self._roll_back(error)
        return self.known.head

    async def advance(self) -> int:
        """Verifies and adopts what Redis holds beyond the tip; returns the log's floor.

        Raises:
            LogBehindWitnessError, LogUnavailableError: as `reach`.
        """
        try:
            self.known, floor_seq = await advance(self._records, self.known)
            await self.admission.catch_up(self.known.head)
        except LogBehindWitnessError as error:
            floor_seq = await self._roll_back(error)
        return floor_seq

    def note(self, entry: ChainedEntry) -> None:
        """Moves to an entry that was just appended at the tip."""
        self.known = replace(self.known, head=Position(entry.seq, entry.chain_digest))
        self.admission.note(entry)

    def grant(self, epoch: int) -> None:
        """Notes an epoch that was just granted."""
        self.known = replace(self.known, epoch=epoch)

    def snapshot(self, head: Position) -> SnapshotTaken | None:
        """The newest snapshot that an entry up to `head` names."""
        retained = self.admission.snapshots
        if all(entry.seq <= head.seq for entry, _ in retained):
            return self.admission.fold.snapshot
        return next((taken for entry, taken in reversed(retained) if entry.seq <= head.seq), None)

    async def _roll_back(self, error: LogBehindWitnessError) -> int:
        """Goes back to what was acknowledged, and on from there; returns the log's floor."""
        base = self._acknowledged.record
        if self.known == base:
            raise error
        lost = self.known.head.seq
        known, floor_seq = await advance(self._records, base)
        self.known, self.admission = known, Admission(self._records)
        self._acknowledged.roll_back()
        _log.warning("a failover lost what was not acknowledged yet", tip_seq=lost)
        await self.admission.catch_up(known.head)
        return floor_seq
