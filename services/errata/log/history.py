"""Verifies the content of Redis against the known history."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from errata.errors import (
    InvalidRequestError,
    LogBehindWitnessError,
    LogNotEmptyError,
    SeqBeyondHeadError,
    SeqTrimmedError,
    StartupError,
)
from errata.log.archive.records import Records
from errata.log.backend import Reading, RedisBackend
from errata.log.chain import ORIGIN, ChainedEntry, Position, verify_run
from errata.log.entries import SnapshotTaken
from errata.log.witness import WitnessRecord

MAX_PAGE_BYTES = 2 * 1024 * 1024
_PAGE_ENTRIES = 1_000


@dataclass(frozen=True, slots=True)
class Page:
    """A verified run of entries.

    Attributes:
        base: the position before the first entry.
        entries: in order, none beyond `head`.
        head: the log's head when the entries were read.
    """

    base: Position
    entries: tuple[ChainedEntry, ...]
    head: Position


@dataclass(frozen=True, slots=True)
class LogState:
    """The log's current state.

    Attributes:
        voided: positions of voided entries, ascending.
        impossible: entries at which readers stop, ascending → what each contradicts.
        snapshot: the newest one that an entry names; None if there is none.
    """

    log_id: str
    head: Position
    floor_seq: int
    epoch: int
    voided: tuple[int, ...] = ()
    impossible: Mapping[int, str] = field(default_factory=dict)
    snapshot: SnapshotTaken | None = None


async def open_history(
    records: Records, recorded: WitnessRecord | None, *, adopt_unwitnessed: bool
) -> WitnessRecord:
    """The position from which the history in Redis must be verified up to its head.

    Args:
        records: of the log; an empty Redis gets a new log with a new identity.
        recorded: the witness's record; None if there is no witness.
        adopt_unwitnessed: trusts a log without a witness from its floor on.

    Raises:
        LogBehindWitnessError: Redis contradicts the witness, or holds fewer entries.
        LogNotEmptyError: there is no witness and the log holds entries.
        LogUnavailableError: Redis does not answer.
    """
    if recorded is not None:
        return await _open_witnessed(records, recorded)
    backend = records.backend
    reading = await backend.read(1, 0, MAX_PAGE_BYTES)
    if reading is None:
        await backend.create(uuid.uuid4().hex)
        reading = await backend.read(1, 0, MAX_PAGE_BYTES)
        if reading is None:
            raise StartupError("Redis lost the new log immediately; check that nothing flushes it.")
    if reading.head.seq and not adopt_unwitnessed:
        raise LogNotEmptyError(
            f"the log holds {reading.head.seq} entries, but its witness is missing, so lost "
            "entries could not be detected. Restore the witness file; or, if the log is known to "
            "be complete, start once with log.adopt_unwitnessed.",
            head_seq=reading.head.seq,
        )
    base = ORIGIN if reading.floor_seq == 1 else reading.floor
    return WitnessRecord(reading.log_id, base, reading.epoch)


async def _open_witnessed(records: Records, recorded: WitnessRecord) -> WitnessRecord:
    """Checks that the log holds the witnessed entry; later entries are verified afterwards."""
    seq = recorded.head.seq
    reading = check_reading(await records.backend.read(1, 0, MAX_PAGE_BYTES), recorded)
    if seq == reading.floor.seq:  # what was archived need not be readable
        found: Position | None = reading.floor
    else:
        reading = check_reading(await records.read(max(seq, 1), 1, MAX_PAGE_BYTES), recorded)
        found = verify_run(reading.base, reading.entries) if reading.base and seq else None
    if found is not None and found != recorded.head:
        raise _other_digest(found, recorded.head)
    return recorded


async def advance(records: Records, known: WitnessRecord) -> tuple[WitnessRecord, int]:
    """Verifies the entries that the log holds beyond `known`.

    Returns:
        The new known record, and the log's floor.

    Raises:
        LogBehindWitnessError: Redis contradicts `known`, or holds fewer entries.
        LogUnavailableError: Redis does not answer; retry from `known`.
        PreconditionError, ArtifactCorruptError, UnavailableError: entries after `known` are
            archived, and the archive cannot be read.
    """
    while True:
        reading = check_reading(
            await records.read(known.head.seq + 1, _PAGE_ENTRIES, MAX_PAGE_BYTES), known
        )
        tip = verify_run(known.head, reading.entries)
        if tip.seq < reading.head.seq and not reading.entries:
            raise LogBehindWitnessError(
                f"entries {tip.seq + 1} to {reading.head.seq} cannot be verified: the log was "
                f"trimmed up to {reading.floor_seq - 1} or has a gap. Restore Redis, or remove "
                "the witness and start once with log.adopt_unwitnessed.",
                seq=tip.seq,
                head_seq=reading.head.seq,
                floor_seq=reading.floor_seq,
            )
        known = replace(known, head=tip, epoch=max(known.epoch, reading.epoch))
        if tip.seq == reading.head.seq:
            if tip != reading.head:
                raise _other_digest(reading.head, tip)
            await _check_witnessed(records.backend, reading)
            return known, reading.floor_seq


async def _check_witnessed(backend: RedisBackend, reading: Reading) -> None:
    """Compares Redis with what another service's witness covers, if that service warned of it."""
    witnessed = reading.witnessed
    if witnessed is None:
        backend.heeded = b""
        return
    check_reading(reading, witnessed)
    if 0 < witnessed.head.seq < reading.head.seq and witnessed.head.seq >= reading.floor_seq:
        found = await backend.read(witnessed.head.seq, 1, MAX_PAGE_BYTES)
        stored = found.entries[0] if found is not None and found.entries else None
        if stored is not None and stored.chain_digest != witnessed.head.chain_digest:
            raise _other_digest(Position(stored.seq, stored.chain_digest), witnessed.head)
    backend.heeded = witnessed.head.chain_digest


def check_reading(reading: Reading | None, known: WitnessRecord) -> Reading:
    """Returns `reading` if it is consistent with `known` and not older.

    Args:
        reading: the answer of Redis; None if it holds no log.
        known: the record at the time of the request, not a later one.

    Raises:
        LogBehindWitnessError: Redis holds no log or another log, or its head or epoch went back.
    """
    if reading is None or reading.log_id != known.log_id:
        raise another_log(known, reading.log_id if reading else None)
    if reading.head.seq < known.head.seq:
        raise LogBehindWitnessError(
            f"Redis's head is {reading.head.seq}, but {known.head.seq} was acknowledged: entries "
            "are lost. Restore Redis from a copy that contains them.",
            head_seq=reading.head.seq,
            witness_seq=known.head.seq,
        )
    if reading.head.seq == known.head.seq and reading.head != known.head:
        raise _other_digest(reading.head, known.head)
    check_epoch(reading.epoch, known)
    return reading


def check_from_seq(from_seq: int) -> None:
    """Checks that a log can have this position.

    Raises:
        InvalidRequestError: `from_seq` is below 1.
    """
    if from_seq < 1:
        raise InvalidRequestError(
            f"from_seq is {from_seq}; the first entry is 1.", field="from_seq"
        )


def verified_page(
    reading: Reading, from_seq: int, head: Position, snapshot: SnapshotTaken | None
) -> Page:
    """The page in a reading, if it agrees with the known positions.

    Args:
        reading: the entries from `from_seq` on.
        from_seq: at least 1.
        head: the last acknowledged position; later entries are not served.
        snapshot: the newest one, for readers who ask for an entry that was trimmed.

    Raises:
        SeqTrimmedError: `from_seq` is below the floor, and the reading has no archived entries.
        SeqBeyondHeadError: `from_seq` is above head + 1.
        LogBehindWitnessError: an entry is missing or was changed.
    """
    if from_seq > head.seq + 1:
        raise SeqBeyondHeadError(
            f"from_seq is {from_seq}, but the log's head is {head.seq}; use at most "
            f"{head.seq + 1}.",
            field="from_seq",
            head_seq=head.seq,
        )
    if from_seq < reading.floor_seq and not reading.entries:
        raise _trimmed(from_seq, reading, snapshot)
    if not reading.entries and from_seq <= head.seq:
        raise LogBehindWitnessError(
            f"entry {from_seq} is missing from Redis. Restore Redis from an intact copy.",
            seq=from_seq,
        )
    base = reading.base or head
    verify_run(base, reading.entries)
    # A consistently rewritten history is a valid chain, but not through the known positions.
    known = {0: ORIGIN, head.seq: head}
    stored = (Position(entry.seq, entry.chain_digest) for entry in reading.entries)
    for position in (base, *stored):
        if known.get(position.seq, position) != position:
            raise _other_digest(position, known[position.seq])
    entries = tuple(entry for entry in reading.entries if entry.seq <= head.seq)
    return Page(base, entries, head)


def _trimmed(from_seq: int, reading: Reading, snapshot: SnapshotTaken | None) -> SeqTrimmedError:
    """Tells a reader where to begin."""
    begin = f"entry {reading.floor_seq}"
    metadata: dict[str, str | int] = {"floor_seq": reading.floor_seq}
    if snapshot is not None:
        begin = f"the snapshot at entry {snapshot.seq}, artifact {snapshot.manifest.digest}"
        metadata |= {
            "snapshot_seq": snapshot.seq,
            "manifest_digest": snapshot.manifest.digest,
            "manifest_size_bytes": snapshot.manifest.size_bytes,
        }
    return SeqTrimmedError(
        f"entry {from_seq} was trimmed; the first retained entry is {reading.floor_seq}. Begin "
        f"with {begin}.",
        field="from_seq",
        **metadata,
    )


def check_epoch(epoch: int, known: WitnessRecord) -> None:
    """Refuses an epoch that went back: if granted twice, it would not fence the first writer.

    Raises:
        LogBehindWitnessError: `epoch` is below the known one.
    """
    if epoch < known.epoch:
        raise LogBehindWitnessError(
            f"Redis's epoch is {epoch}, but {known.epoch} was granted: writes are lost. Restore "
            "Redis from a copy that contains them.",
            epoch=epoch,
            witness_epoch=known.epoch,
        )


def another_log(known: WitnessRecord, found: str | None) -> LogBehindWitnessError:
    """The error for a Redis that holds another log or none."""
    holds = f"holds log {found}" if found else "holds no log"
    return LogBehindWitnessError(
        f"Redis {holds}, but log {known.log_id} was acknowledged up to {known.head.seq}. Restore "
        "Redis; or, to abandon the old log and start a new one, remove the witness file.",
        log_id=found or "",
        witness_log_id=known.log_id,
        witness_seq=known.head.seq,
    )


def _other_digest(found: Position, known: Position) -> LogBehindWitnessError:
    return LogBehindWitnessError(
        f"entry {found.seq} in Redis is not the one that was acknowledged: the history was "
        "changed. Restore Redis from an intact copy.",
        seq=found.seq,
        stored_digest=found.chain_digest.hex(),
        witness_digest=known.chain_digest.hex(),
    )
