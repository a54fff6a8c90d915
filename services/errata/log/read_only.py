"""The log as it was at an earlier position: served to replicas, never changed."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import structlog

from errata.artifacts import ArtifactStore
from errata.errors import ErrataError, PreconditionError, StartupError
from errata.log.acknowledged import Acknowledged
from errata.log.admission import Admission
from errata.log.append import Appended, NewEntry
from errata.log.archive.records import Records
from errata.log.chain import Position
from errata.log.history import (
    MAX_PAGE_BYTES,
    LogState,
    Page,
    advance,
    check_reading,
    open_history,
)
from errata.log.opening import LogParts, opening
from errata.log.store import RedisLog
from errata.log.witness import Witness, WitnessFile, WitnessRecord
from errata.platform.settings import LogSettings

_log = structlog.get_logger(__name__)


def refuse_change(seq: int) -> NoReturn:
    """Refuses a change of a system that shows an earlier position.

    Args:
        seq: the position that it shows.

    Raises:
        PreconditionError: always.
    """
    raise PreconditionError(
        f"this system is read only at {seq}: it shows the log as it was there, and changes "
        "nothing. Start it without log.read_only_at (`errata up` without --at) to change it.",
        read_only_at=seq,
    )


class ReadOnlyLog(RedisLog):
    """The entries up to one position, as if it were the head; writes neither Redis nor witness.

    The whole log is verified once, at `open`: its later entries prove the earlier ones.
    """

    @classmethod
    async def open(
        cls, settings: LogSettings, artifacts: ArtifactStore | None = None
    ) -> ReadOnlyLog:
        """Checks Redis and witness, and verifies the whole log.

        Args:
            settings: of the log.
            artifacts: hold the archive of a trimmed log.

        Raises:
            StartupError: Redis cannot be reached or is not durable, holds no log or one that does
                not reach to the position, or another service owns the witness.
            LogNotEmptyError: there is no witness.
            LogBehindWitnessError: Redis lost or changed acknowledged entries.
        """
        async with opening(settings) as (file, backend):
            records = Records(backend, artifacts)
            known = await _verified(records, file, settings)
            admission = Admission(records)
            await admission.catch_up(known.head)
            position = await _position(records, known, settings.read_only_at or known.head.seq)
            shown = WitnessRecord(known.log_id, position, known.epoch)
            await advance(records, shown)  # the position leads to the head that was witnessed
            acknowledged = Acknowledged(backend, Witness(file, known), shown)
        _log.info("log opened, read only", log_id=known.log_id, at=position.seq)
        return cls(settings, LogParts(records, shown, admission, acknowledged))

    async def acquire_epoch(
        self, writer: str, lease_ms: int = 0, *, only_if_free: bool = False
    ) -> int:
        """Refused: there is no writer.

        Raises:
            PreconditionError: always.
        """
        refuse_change(self.head.seq)

    async def renew_lease(self, epoch: int, lease_ms: int) -> None:
        """Refused: there is no writer.

        Raises:
            PreconditionError: always.
        """
        refuse_change(self.head.seq)

    async def append(self, entry: NewEntry, objection: ErrataError | None = None) -> Appended:
        """Refused: nothing is appended.

        Raises:
            PreconditionError: always.
        """
        refuse_change(self.head.seq)

    async def read_retained(self, from_seq: int, max_entries: int, max_bytes: int) -> Page:
        """As `read`: readers begin with entry 1, because later snapshots are of no use to them."""
        return await self.read(from_seq, max_entries, max_bytes)

    async def warn(self) -> None:
        """Writes nothing: the services that write find the loss themselves."""

    async def wait_beyond(self, seconds: float) -> int | None:
        """Waits: there is no later entry."""
        await asyncio.sleep(seconds)
        return None

    async def _state(self) -> LogState:
        """The state at the position; an entry that a later one voids counts as voided."""
        with self._guarded():
            known, fold = self._tip.known, self._tip.admission.fold
            reading = await self._backend.read(1, 0, MAX_PAGE_BYTES)
            floor_seq = check_reading(reading, known).floor_seq
        at = known.head.seq
        voided = tuple(seq for seq in sorted(fold.voided) if seq <= at)
        impossible = {seq: why for seq, why in fold.impossible.items() if seq <= at}
        return LogState(known.log_id, known.head, floor_seq, known.epoch, voided, impossible)


async def _verified(records: Records, file: WitnessFile, settings: LogSettings) -> WitnessRecord:
    """The head, verified against the witness."""
    if await records.backend.read(1, 0, MAX_PAGE_BYTES) is None:
        raise StartupError(
            f"Redis at {records.backend.address} holds no log, so there is nothing to show; "
            "correct log.redis_url or the data_dir (--data-dir)."
        )
    base = await open_history(records, file.record, adopt_unwitnessed=settings.adopt_unwitnessed)
    known, floor_seq = await advance(records, base)
    first = await records.read(1, 1, MAX_PAGE_BYTES) if known.head.seq else None
    if first is not None and not first.entries:
        raise StartupError(
            f"the log was trimmed up to {floor_seq - 1} without an archive, so it cannot be shown "
            "as it was earlier. Restore a backup into another folder (`errata restore`), and show "
            "that.",
            floor_seq=floor_seq,
        )
    return known


async def _position(records: Records, known: WitnessRecord, seq: int) -> Position:
    """The position of an entry, as the log tells it."""
    if seq > known.head.seq:
        raise StartupError(
            f"log.read_only_at (--at) is {seq}, but the log ends at {known.head.seq}; give a "
            "position from 1 to there.",
            head_seq=known.head.seq,
        )
    reading = check_reading(await records.read(seq, 1, MAX_PAGE_BYTES), known)
    if not reading.entries:
        raise StartupError(f"entry {seq} is missing from Redis; restore it from an intact copy.")
    return Position(seq, reading.entries[0].chain_digest)
