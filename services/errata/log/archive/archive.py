"""Reads and writes the archive's files; whatever it returns was verified."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import structlog

from errata.artifacts import ArtifactStore
from errata.errors import ArtifactCorruptError, NotFoundError, PreconditionError
from errata.log.archive.index import ArchiveIndex, unpack_fold, unpack_index
from errata.log.archive.segment import SegmentRef, unpack_segment
from errata.log.chain import ChainedEntry
from errata.log.entries import ArtifactRef
from errata.log.fold import LogFold
from errata.log.folding import fold_stored

_MAX_SEGMENTS = 4  # in memory; readers go from page to page

_log = structlog.get_logger(__name__)


class Archive:
    """The archives in one artifact store.

    Every method raises `UnavailableError` if the store cannot be reached, `PreconditionError` if a
    file is missing or of a newer format, and `ArtifactCorruptError` if it is damaged or of another
    log. What is in Redis is not affected by that.
    """

    def __init__(self, store: ArtifactStore) -> None:
        """Reads nothing yet."""
        self._store = store
        self._index: tuple[ArtifactRef, ArchiveIndex] | None = None
        self._segments: OrderedDict[str, tuple[ChainedEntry, ...]] = OrderedDict()

    async def index(self, log_id: str, ref: ArtifactRef) -> ArchiveIndex:
        """The index that Redis names."""
        if self._index is None or self._index[0] != ref:
            data = await self._load(ref, f"index (artifact {ref.digest})")
            self._index = ref, await asyncio.to_thread(unpack_index, data, log_id)
        return self._index[1]

    async def segment(self, log_id: str, segment: SegmentRef) -> tuple[ChainedEntry, ...]:
        """The entries of a segment."""
        digest = segment.ref.digest
        if digest not in self._segments:
            data = await self._load(segment.ref, segment.name)
            found = await asyncio.to_thread(unpack_segment, data, log_id, segment)
            self._segments[digest] = found
            while len(self._segments) > _MAX_SEGMENTS:
                self._segments.popitem(last=False)
        self._segments.move_to_end(digest)
        return self._segments[digest]

    async def fold(self, log_id: str, index: ArchiveIndex) -> LogFold:
        """The fold of all archived entries, stored or made again from them."""
        try:
            data = await self._load(index.fold, f"fold (artifact {index.fold.digest})")
            return await asyncio.to_thread(unpack_fold, data, log_id, index.position)
        except (PreconditionError, ArtifactCorruptError) as error:
            _log.error("the archive is folded again from entry 1", reason=error.message)
        fold = LogFold()
        for segment in index.segments:
            for stored in await self.segment(log_id, segment):
                fold_stored(fold, stored)
            await asyncio.sleep(0)
        return fold

    async def put(self, data: bytes) -> ArtifactRef:
        """Stores a file; it is synced on return."""
        return ArtifactRef(await self._store.put(data), len(data))

    async def check(self, ref: ArtifactRef) -> None:
        """Returns if the store holds an artifact of this length; its content is not read.

        Raises:
            PreconditionError: it does not.
        """
        try:
            found = await self._store.size(ref.digest)
        except NotFoundError:
            found = -1
        if found != ref.size_bytes:
            raise PreconditionError(
                f"artifact {ref.digest} of the snapshot is missing or cut short, so the log is not "
                "trimmed. Restore it from a backup, or take another snapshot.",
                digest=ref.digest,
            )

    async def load(self, ref: ArtifactRef) -> bytes:
        """The bytes of any artifact."""
        return await self._load(ref, f"artifact {ref.digest}")

    async def _load(self, ref: ArtifactRef, what: str) -> bytes:
        try:
            return await self._store.get(ref.digest, ref.size_bytes)
        except NotFoundError as error:
            raise PreconditionError(
                f"the archive's {what} is missing from the artifact store. Restore the store from "
                "a backup, or correct artifacts.url; entries that are still in Redis are not "
                "affected.",
                digest=ref.digest,
            ) from error
