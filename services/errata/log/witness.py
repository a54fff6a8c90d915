"""The witness: a file outside Redis with the last acknowledged position.

It has two slots with checksums, written alternately. A crash can tear only the slot that is being
written; its position was not acknowledged yet, and the other slot is intact.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from errata.errors import LogUnavailableError, StartupError
from errata.log.chain import Position
from errata.platform.failpoints import failpoint

# Each slot has its own page, so that no torn write damages both.
SLOT_SPACING = 4096
_MAGIC = b"errwit01"
_FIELDS = struct.Struct(">8s16sQQQ32s")  # magic, log_id, generation, epoch, seq, digest
SLOT_BYTES = _FIELDS.size + 32
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WitnessRecord:
    """The content of the witness.

    Attributes:
        log_id: 32 hex digits.
        head: the last acknowledged position.
        epoch: the greatest epoch ever granted; without it, two writers could get the same one.
    """

    log_id: str
    head: Position
    epoch: int

    def merged(self, other: WitnessRecord) -> WitnessRecord:
        """Combines two records of one log: the later head and the greater epoch."""
        head = max(self.head, other.head, key=lambda position: position.seq)
        return WitnessRecord(self.log_id, head, max(self.epoch, other.epoch))

    def covers(self, other: WitnessRecord) -> bool:
        """Whether neither head nor epoch of `other` is newer."""
        return self.head.seq >= other.head.seq and self.epoch >= other.epoch


def encode_slot(record: WitnessRecord, generation: int) -> bytes:
    """The bytes of one slot."""
    fields = _FIELDS.pack(
        _MAGIC,
        bytes.fromhex(record.log_id),
        generation,
        record.epoch,
        record.head.seq,
        record.head.chain_digest,
    )
    return fields + hashlib.sha256(fields).digest()


def decode_slot(slot: bytes) -> tuple[int, WitnessRecord] | None:
    """Generation and record of a slot; None if it is empty, torn or damaged."""
    fields, checksum = slot[: _FIELDS.size], slot[_FIELDS.size :]
    if len(slot) != SLOT_BYTES or hashlib.sha256(fields).digest() != checksum:
        return None
    magic, log_id, generation, epoch, seq, digest = _FIELDS.unpack(fields)
    if magic != _MAGIC:
        return None
    return generation, WitnessRecord(log_id.hex(), Position(seq, digest), epoch)


def read_witness(path: Path) -> WitnessRecord | None:
    """The record of a witness that another process may own; None without a readable one."""
    try:
        with path.open("rb") as file:
            newest = _newest(os.pread(file.fileno(), SLOT_BYTES, i * SLOT_SPACING) for i in (0, 1))
    except OSError:
        return None
    return newest[1] if newest else None


def _newest(slots: Iterable[bytes]) -> tuple[int, WitnessRecord] | None:
    """Generation and record of the newest intact slot."""
    found = (decode_slot(slot) for slot in slots)
    return max((slot for slot in found if slot), key=lambda slot: slot[0], default=None)


class WitnessFile:
    """The witness file, with blocking calls. A lock, held until the process ends, protects it."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file and takes its lock.

        Raises:
            StartupError: another process owns it, or it cannot be opened.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _sync_folder(path.parent)
            except BaseException:
                os.close(self._descriptor)
                raise
        except BlockingIOError as error:
            raise StartupError(
                f"another log service owns the witness {path}. Stop that service, or give each "
                "service its own log.witness_path.",
                path=path,
            ) from error
        except OSError as error:
            raise StartupError(
                f"the witness {path} cannot be opened: {error}. Set log.witness_path to a place "
                "that this user can write to.",
                path=path,
            ) from error
        found = _newest(
            os.pread(self._descriptor, SLOT_BYTES, index * SLOT_SPACING) for index in range(2)
        )
        self._generation = found[0] if found else 0
        self.record: WitnessRecord | None = found[1] if found else None

    def write(self, record: WitnessRecord) -> None:
        """Replaces the older slot and syncs it.

        Raises:
            OSError: the record may not be durable, so acknowledge nothing; the other slot is
                unchanged.
        """
        generation = self._generation + 1
        slot = encode_slot(record, generation)
        failpoint("log.witness.before_write")
        written = os.pwrite(self._descriptor, slot, generation % 2 * SLOT_SPACING)
        if written != len(slot):
            raise OSError(f"wrote {written} of {len(slot)} bytes")
        failpoint("log.witness.before_sync")
        os.fdatasync(self._descriptor)
        failpoint("log.witness.after_sync")
        self._generation, self.record = generation, record

    def close(self) -> None:
        """Releases the lock."""
        os.close(self._descriptor)


class Witness:
    """The witness for an event loop: one sync serves all waiting acknowledgements."""

    def __init__(self, file: WitnessFile, record: WitnessRecord) -> None:
        """Starts from `record`, which the file need not contain yet."""
        self._file = file
        self._wanted = record
        self._lock = asyncio.Lock()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="witness")
        self._failed = False

    async def cover(self, record: WitnessRecord) -> None:
        """Returns once the file covers `record`; the caller must not be cancelled meanwhile.

        Raises:
            LogUnavailableError: this sync or an earlier one failed. After a failed sync the
                kernel may report lost pages as clean, so the file is trusted only after a restart.
        """
        self._wanted = self._wanted.merged(record)
        async with self._lock:
            if not self._failed and not self._is_covered(record):
                wanted = self._wanted
                try:
                    await asyncio.get_running_loop().run_in_executor(
                        self._executor, self._file.write, wanted
                    )
                except OSError as error:
                    self._failed = True
                    _log.critical(
                        "the witness could not be synced; repair the disk and restart the service",
                        path=str(self._file.path),
                        cause=str(error),
                    )
            if self._failed:
                raise LogUnavailableError(
                    "the witness could not be synced, so nothing is acknowledged; the log "
                    "service's log has the cause. Repair the disk and restart the log service, "
                    "then retry with the same request id."
                )

    def _is_covered(self, record: WitnessRecord) -> bool:
        return self._file.record is not None and self._file.record.covers(record)

    async def close(self) -> None:
        """Waits for a running sync, then releases the lock."""
        async with self._lock:
            self._executor.shutdown()
            self._file.close()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
