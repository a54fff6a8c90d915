"""Moves entries from Redis to the archive: nothing leaves Redis before a verified copy is named.

1. The snapshot that covers the entries is complete in the artifact store.
2. The entries are read, verified and folded; segments with them are stored, synced, read back and
   verified.
3. The fold and the index are stored and read back likewise.
4. One script names the index in Redis and removes the entries.

Whatever fails before the script ran changes nothing: the files that no index names are collected
later, and the next trim starts over. After the script, the trim is complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from errata.errors import ArtifactCorruptError, PreconditionError
from errata.log.archive.archive import Archive
from errata.log.archive.index import ArchiveIndex, pack_fold, pack_index, unpack_fold
from errata.log.archive.records import Records
from errata.log.archive.segment import MAX_BYTES, MAX_ENTRIES, SegmentRef, pack_segment
from errata.log.backend import Reading
from errata.log.chain import ORIGIN, ChainedEntry, Position, verify_run
from errata.log.entries import SnapshotTaken
from errata.log.fold import LogFold
from errata.log.folding import fold_stored
from errata.log.manifest import parts_of
from errata.platform.failpoints import failpoint_async

_PAGE_ENTRIES = 32  # small, because appends wait while a page is folded
_PAGE_BYTES = 2 * 1024 * 1024

_log = structlog.get_logger(__name__)


class Trim:
    """One trim, up to the position of a snapshot."""

    def __init__(self, records: Records, archive: Archive, before: Reading) -> None:
        """Starts from a reading.

        Args:
            records: of the log.
            archive: receives the entries.
            before: which archive there is, and where Redis begins.
        """
        self._records, self._archive, self._before = records, archive, before
        self._log_id = before.log_id
        self._segments: list[SegmentRef] = []
        self._fold = LogFold()
        self._position = ORIGIN
        self._base = ORIGIN  # of the segment that is being filled
        self._entries: list[ChainedEntry] = []
        self._bytes = 0

    async def run(self, snapshot: SnapshotTaken) -> ArchiveIndex | None:
        """Trims up to `snapshot`; None if another service trimmed meanwhile.

        Raises:
            PreconditionError: the snapshot is not complete or of another history, the log was
                trimmed without an archive, or an entry is of a kind that this version does not
                know. Nothing was changed.
            ArtifactCorruptError, UnavailableError, LimitExceededError: the artifact store failed;
                nothing was changed.
            LogBehindWitnessError: Redis holds changed entries; nothing was changed.
            LogUnavailableError: Redis does not answer; the next trim sees whether it is complete.
        """
        await self._check_snapshot(snapshot)
        await self._continue_archive()
        if not await self._take_entries(snapshot.seq):
            return None
        if self._position.chain_digest != snapshot.chain_digest:
            raise PreconditionError(
                f"the snapshot at entry {snapshot.seq} is of another history than this log's, so "
                "the log is not trimmed. Take another snapshot.",
                seq=snapshot.seq,
            )
        if self._entries:
            await self._store_segment()
        index = await self._store_index()
        ref = await self._archive.put(pack_index(self._log_id, index))
        if await self._archive.index(self._log_id, ref) != index:
            raise ArtifactCorruptError("the archive's new index cannot be read back.")
        _log.debug("trim", step="index stored", to_seq=index.position.seq)
        await failpoint_async("log.trim.before_redis")
        if not await self._records.backend.trim(self._before, index.position, ref):
            return None
        await failpoint_async("log.trim.after_redis")
        _log.debug("trim", step="entries removed", to_seq=index.position.seq)
        return index

    async def _check_snapshot(self, snapshot: SnapshotTaken) -> None:
        await self._archive.check(snapshot.manifest)
        for part in parts_of(await self._archive.load(snapshot.manifest)):
            await self._archive.check(part)
        _log.debug("trim", step="snapshot checked", to_seq=snapshot.seq)

    async def _continue_archive(self) -> None:
        """Takes over the archive that there is; its last segment is filled up if it has room."""
        if self._before.archive is None and self._before.floor_seq == 1:
            return
        index = await self._records.index(self._before)
        self._fold = await self._archive.fold(self._log_id, index)
        self._segments = list(index.segments)
        self._position = self._base = index.position
        try:
            entries = await self._archive.segment(self._log_id, index.segments[-1])
        except (PreconditionError, ArtifactCorruptError) as error:
            _log.error("the archive's last segment stays as it is", reason=error.message)
            return
        size = sum(len(entry.payload) for entry in entries)
        if len(entries) < MAX_ENTRIES and size < MAX_BYTES:
            self._base = self._segments.pop().base
            self._entries, self._bytes = list(entries), size

    async def _take_entries(self, to_seq: int) -> bool:
        while self._position.seq < to_seq:
            from_seq = self._position.seq + 1
            reading = await self._records.backend.read(from_seq, _PAGE_ENTRIES, _PAGE_BYTES)
            if reading is None or reading.log_id != self._log_id or not reading.entries:
                return False
            entries = [entry for entry in reading.entries if entry.seq <= to_seq]
            # In a thread, so that appends go on meanwhile.
            position = await asyncio.to_thread(self._verify_and_fold, entries)
            for entry in entries:
                self._entries.append(entry)
                self._bytes += len(entry.payload)
                if len(self._entries) >= MAX_ENTRIES or self._bytes >= MAX_BYTES:
                    await self._store_segment()
            self._position = position
        return True

    def _verify_and_fold(self, entries: Sequence[ChainedEntry]) -> Position:
        position = verify_run(self._position, entries)
        for entry in entries:
            fold_stored(self._fold, entry)
        return position

    async def _store_segment(self) -> None:
        entries = tuple(self._entries)
        data = await asyncio.to_thread(pack_segment, self._log_id, self._base, entries)
        end = entries[-1].position
        segment = SegmentRef(self._base, end, await self._archive.put(data))
        if await self._archive.segment(self._log_id, segment) != entries:
            raise ArtifactCorruptError(f"the {segment.name} cannot be read back.")
        self._segments.append(segment)
        self._base, self._entries, self._bytes = end, [], 0
        _log.debug("trim", step="segment stored", to_seq=end.seq)

    async def _store_index(self) -> ArchiveIndex:
        data = await asyncio.to_thread(pack_fold, self._log_id, self._position, self._fold)
        ref = await self._archive.put(data)
        stored = await self._archive.load(ref)
        await asyncio.to_thread(unpack_fold, stored, self._log_id, self._position)
        _log.debug("trim", step="fold stored", to_seq=self._position.seq)
        return ArchiveIndex(tuple(self._segments), ref)
