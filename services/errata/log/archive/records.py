"""Reads the log's entries wherever they are: in Redis, or in the archive."""

from __future__ import annotations

from dataclasses import replace

from errata.artifacts import ArtifactStore
from errata.errors import PreconditionError
from errata.log.archive.archive import Archive
from errata.log.archive.container import damaged
from errata.log.archive.index import ArchiveIndex
from errata.log.backend import Reading, RedisBackend
from errata.log.chain import ChainedEntry


class Records:
    """The entries of one log.

    Attributes:
        backend: holds the retained entries.
        archive: holds the others; None if no store was given.
    """

    def __init__(self, backend: RedisBackend, store: ArtifactStore | None) -> None:
        """Reads nothing yet.

        Args:
            backend: the log's Redis; the caller closes it.
            store: holds the archive.
        """
        self.backend = backend
        self.archive = None if store is None else Archive(store)

    async def read(self, from_seq: int, max_entries: int, max_bytes: int) -> Reading | None:
        """As `RedisBackend.read`, but entries below the floor come from the archive.

        They are none if there is no archive, and all of one segment otherwise.

        Raises:
            PreconditionError, ArtifactCorruptError, UnavailableError: the archive cannot be read,
                as `Archive` says, or does not end where Redis begins.
        """
        reading = await self.backend.read(from_seq, max_entries, max_bytes)
        if reading is None or from_seq >= reading.floor_seq or reading.archive is None:
            return reading
        index = await self.index(reading)
        segment = next(each for each in index.segments if each.end.seq >= from_seq)
        entries = await self._archive().segment(reading.log_id, segment)
        skipped = from_seq - segment.base.seq - 1
        base = segment.base if skipped == 0 else entries[skipped - 1].position
        found = _limited(entries[skipped : skipped + max_entries], max_bytes)
        return replace(reading, base=base, entries=found)

    async def index(self, reading: Reading) -> ArchiveIndex:
        """The index that a reading names, which ends where Redis begins.

        Raises:
            PreconditionError, ArtifactCorruptError, UnavailableError: as `read`.
        """
        if reading.archive is None:
            raise PreconditionError(
                f"the log begins at entry {reading.floor_seq} and has no archive. Restore Redis "
                "from a copy with all entries.",
                floor_seq=reading.floor_seq,
            )
        index = await self._archive().index(reading.log_id, reading.archive)
        if index.position != reading.floor:
            raise damaged(
                "index",
                f"it ends at entry {index.position.seq}, which is not the entry before "
                f"{reading.floor_seq}, where Redis begins",
            )
        return index

    def _archive(self) -> Archive:
        if self.archive is None:
            raise PreconditionError("the log's archive cannot be read without an artifact store.")
        return self.archive


def _limited(entries: tuple[ChainedEntry, ...], max_bytes: int) -> tuple[ChainedEntry, ...]:
    """The first entries, of at most `max_bytes` or one of them."""
    total = 0
    for number, entry in enumerate(entries):
        total += len(entry.payload)
        if total > max_bytes and number:
            return entries[:number]
    return entries
