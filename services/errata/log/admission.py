"""Admission: which entries the log takes, given the entries that it holds."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from errata.artifacts import ArtifactStore
from errata.errors import (
    ArtifactCorruptError,
    ErrataError,
    ImpossibleEntryError,
    InvalidRequestError,
    LogBehindWitnessError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from errata.log.append import NewEntry
from errata.log.archive.records import Records
from errata.log.chain import ORIGIN, ChainedEntry, Position, verify_run
from errata.log.entries import Entry, EntryVoided, SnapshotTaken, artifacts_of
from errata.log.fold import LogFold
from errata.log.folding import fold_stored
from errata.log.history import MAX_PAGE_BYTES
from errata.log.payload_convert import decode
from errata.platform.failpoints import failpoint_async

_PAGE_ENTRIES = 1_000

_log = structlog.get_logger(__name__)


async def missing_artifact(entry: NewEntry, artifacts: ArtifactStore) -> ErrataError | None:
    """Why replicas could not load what an entry names; None if they could.

    Raises:
        UnavailableError: the artifact store failed; retry.
    """
    try:
        refs = artifacts_of(decode(ChainedEntry(1, entry.payload, b"")).payload)
        for ref in refs:
            size = await artifacts.size(ref.digest)
            if size != ref.size_bytes:
                return InvalidRequestError(
                    f"the entry is refused: artifact {ref.digest} has {size:,} bytes, and not "
                    f"{ref.size_bytes:,}.",
                    field="payload",
                )
    except NotFoundError as error:
        digest = error.metadata["digest"]
        return NotFoundError(
            f"the entry is refused: artifact {digest} is not in the artifact store; store it "
            "first.",
            field="payload",
            digest=digest,
        )
    except UnavailableError:
        raise
    except ErrataError:
        return None  # the entry's form is refused elsewhere
    return None


class Admission:
    """The fold of the log service; whoever calls it holds the log's lock.

    Attributes:
        fold: of the entries so far.
        snapshots: the entries in Redis that name one, oldest first; each has another `seq` than
            the snapshot that it names.
    """

    def __init__(self, records: Records) -> None:
        """Has read nothing yet.

        Args:
            records: the entries.
        """
        self.fold = LogFold()
        self.snapshots: list[tuple[Entry, SnapshotTaken]] = []
        self._records = records
        self._position = ORIGIN
        self._obstacle: ErrataError | None = None

    async def catch_up(self, tip: Position) -> None:
        """Folds the entries up to `tip`, page by page; asks Redis for nothing if it knows them.

        It begins with the fold of the archived entries, if there is one.

        Args:
            tip: a verified position.

        Raises:
            LogBehindWitnessError: Redis holds other entries than those that lead to `tip`.
            LogUnavailableError: Redis does not answer.
            UnavailableError: the archive's store cannot be reached.
        """
        if self._position == ORIGIN and tip.seq:
            await self._begin_with_archive(tip)
        while self._position.seq < tip.seq and self._obstacle is None:
            await failpoint_async("log.admission.page")
            from_seq = self._position.seq + 1
            try:
                reading = await self._records.read(from_seq, _PAGE_ENTRIES, MAX_PAGE_BYTES)
            except (PreconditionError, ArtifactCorruptError) as error:
                self._obstacle = _unreadable(error)
                return
            entries = () if reading is None else reading.entries
            if reading is not None and reading.floor_seq > from_seq and not entries:
                self._obstacle = PreconditionError(
                    f"the log was trimmed up to {reading.floor_seq - 1} without an archive, so a "
                    "new entry cannot be compared with all entries before it. Restore Redis from "
                    "a copy with all entries, or start a new log.",
                    floor_seq=reading.floor_seq,
                )
            elif not entries:
                raise LogBehindWitnessError(
                    f"entry {from_seq} is missing from Redis. Restore Redis from an intact copy.",
                    seq=from_seq,
                )
            else:
                self._take(entry for entry in entries if entry.seq <= tip.seq)
        if self._position.seq == tip.seq and self._position != tip:
            raise LogBehindWitnessError(
                f"the entries in Redis do not lead to entry {tip.seq} as it was acknowledged: the "
                "history was changed. Restore Redis from an intact copy.",
                seq=tip.seq,
            )

    def refusal(self, entry: NewEntry) -> ErrataError | None:
        """Why the next entry cannot be this one; None if it can.

        Args:
            entry: follows the position that `catch_up` reached.
        """
        if self._obstacle is not None:
            return self._obstacle
        try:
            payload = decode(ChainedEntry(self.fold.seq + 1, entry.payload, b"")).payload
            self.fold.check_new(payload)
        except ImpossibleEntryError as error:
            return InvalidRequestError(
                f"the entry is refused: {error.metadata['problem']}", field="payload"
            )
        except ErrataError as error:
            return type(error)(
                f"the entry is refused: {error.message}", field=error.field, **error.metadata
            )
        if self.fold.impossible and not isinstance(payload, EntryVoided):
            seq = min(self.fold.impossible)
            return PreconditionError(
                f"entry {seq} of the log cannot be applied, so every reader stops before it: "
                f"{self.fold.impossible[seq]} Run `errata log repair --seq {seq} --reason TEXT` "
                "first.",
                seq=seq,
            )
        return None

    def note(self, entry: ChainedEntry) -> None:
        """Folds an entry that was just appended at the tip."""
        self._take([entry])

    def forget_snapshots(self, through_seq: int) -> None:
        """Drops from `snapshots` those that cover no entry after `through_seq`."""
        self.snapshots[:] = [each for each in self.snapshots if each[1].seq > through_seq]

    async def _begin_with_archive(self, tip: Position) -> None:
        reading = await self._records.backend.read(1, 0, MAX_PAGE_BYTES)
        if reading is None or reading.archive is None or reading.floor.seq > tip.seq:
            return
        archive = self._records.archive
        try:
            index = await self._records.index(reading)
            if archive is not None:
                self.fold = await archive.fold(reading.log_id, index)
                self._position = index.position
        except (PreconditionError, ArtifactCorruptError) as error:
            self._obstacle = _unreadable(error)

    def _take(self, entries: Iterable[ChainedEntry]) -> None:
        for stored in entries:
            if self._obstacle is not None:
                return
            try:
                entry = fold_stored(self.fold, stored)
            except PreconditionError as error:  # a kind that only newer versions know
                _log.error("new entries are refused", reason=error.message)
                self._obstacle = error
                return
            if entry is not None and isinstance(entry.payload, SnapshotTaken):
                self.snapshots.append((entry, entry.payload))
            self._position = verify_run(self._position, [stored])


def _unreadable(error: ErrataError) -> ErrataError:
    """Why a log whose archive cannot be read takes no entries."""
    _log.error("new entries are refused: the archive cannot be read", reason=error.message)
    return PreconditionError(
        "the log was trimmed and its archive cannot be read, so a new entry cannot be compared "
        f"with all entries before it: {error.message} Then restart the log service.",
        **error.metadata,
    )
