"""A content-addressed store over fsspec: a directory, memory, S3 or any other fsspec backend."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from fsspec.implementations.local import LocalFileSystem

from errata.artifacts.files import open_place, write_file
from errata.artifacts.source import (
    check_content,
    check_digest,
    check_size,
    digest_of,
    other_size,
)
from errata.errors import ArtifactCorruptError, NotFoundError, UnavailableError
from errata.platform.failpoints import failpoint
from errata.platform.settings import ArtifactSettings

CHUNK_BYTES = 256 * 1024
_FILE = re.compile(r"[0-9a-f]{2}/([0-9a-f]{64})\.safetensors(\.[0-9a-f]{32}\.tmp)?")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the store.

    Attributes:
        path: in the file system.
        digest: of the artifact; empty for what an interrupted `save` left.
        size_bytes: its length.
    """

    path: str
    digest: str
    size_bytes: int


class ArtifactStore:
    """Artifacts under one URL, at `ab/abcdef….safetensors`.

    A file gets its name only when it is complete (and, on a local disk, synced), so a log entry
    that names a digest never refers to an incomplete file. `save` and `load` block; `put`, `get`
    and `chunks` do the same work in a thread.
    """

    def __init__(self, url: str, *, max_bytes: int = ArtifactSettings().max_bytes) -> None:
        """Opens the store; creates nothing yet.

        Args:
            url: an fsspec URL or a local path.
            max_bytes: larger artifacts are neither stored nor loaded.

        Raises:
            StartupError: the protocol is unknown to fsspec, or its package is not installed.
        """
        place = open_place(url, "the artifact store")
        self._url = url
        self._max_bytes = max_bytes
        self._fs, self._root, self._errors = place.fs, place.root, place.errors

    def path_of(self, digest: str) -> str:
        """The artifact's path in the file system."""
        return f"{self._root}/{digest[:2]}/{digest}.safetensors"

    async def put(self, data: bytes) -> str:
        """Stores bytes and returns their digest; see `save`."""
        return await asyncio.to_thread(self.save, data)

    async def get(self, digest: str, size_bytes: int | None = None) -> bytes:
        """The artifact's bytes, verified; see `load`."""
        return await asyncio.to_thread(self.load, digest, size_bytes)

    def save(self, data: bytes) -> str:
        """Stores bytes and returns their digest; storing them again only renews their age.

        A damaged file is replaced.

        Raises:
            LimitExceededError: larger than allowed; replicas would refuse it.
            UnavailableError: the file system failed; no file of this name was added or changed.
        """
        digest = digest_of(data)
        check_size(digest, len(data), self._max_bytes)
        path = self.path_of(digest)
        try:
            self.load(digest, len(data))
        except (NotFoundError, ArtifactCorruptError):
            with self._failures(digest):
                write_file(self._fs, path, data)
        else:
            with self._failures(digest):
                self._renew(path, data)
        return digest

    def files(self) -> Iterator[StoredFile]:
        """Every file of the store, also those that an interrupted `save` left; not any other.

        Raises:
            UnavailableError: the file system failed.
        """
        with self._failures(""):
            try:
                found = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                return
        for path, info in found.items():
            named = _FILE.fullmatch(str(path)[len(self._root) + 1 :])
            if named is not None:
                yield StoredFile(str(path), "" if named[2] else named[1], int(info["size"] or 0))

    def modified(self, file: StoredFile) -> datetime:
        """When a file was stored last.

        Raises:
            NotFoundError: it is gone.
            UnavailableError: the file system failed.
        """
        with self._failures(file.digest):
            time: datetime = self._fs.modified(file.path)
        return time if time.tzinfo else time.replace(tzinfo=UTC)

    def remove(self, file: StoredFile, older_than: datetime) -> bool:
        """Removes a file, unless it was stored at `older_than` or later.

        Returns:
            Whether it is gone.

        Raises:
            UnavailableError: the file system failed.
        """
        with suppress(NotFoundError):
            if self.modified(file) >= older_than:
                return False
            with self._failures(file.digest):
                self._fs.rm_file(file.path)
        return True

    def load(self, digest: str, size_bytes: int | None = None) -> bytes:
        """The artifact's bytes, verified.

        Args:
            digest: of the artifact.
            size_bytes: its length, as the log announces it; None if unknown.

        Raises:
            InvalidRequestError: `digest` cannot name an artifact.
            LimitExceededError: it is larger than allowed; nothing was read.
            NotFoundError: no such artifact.
            ArtifactCorruptError: the stored bytes do not match, or are not `size_bytes` long.
            UnavailableError: the file system failed.
        """
        check_digest(digest)
        if size_bytes is not None:
            check_size(digest, size_bytes, self._max_bytes)
        with self._failures(digest):
            failpoint("artifacts.load")
            found = int(self._fs.size(self.path_of(digest)))
        check_size(digest, found, self._max_bytes)
        if size_bytes is not None and found != size_bytes:
            raise other_size(digest, size_bytes, self._url)
        with self._failures(digest):
            data: bytes = self._fs.cat_file(self.path_of(digest), end=found)
        self._check_content(digest, digest_of(data))
        return data

    async def size(self, digest: str) -> int:
        """The artifact's length in bytes; its content is not read.

        Raises:
            InvalidRequestError, NotFoundError, UnavailableError: as `load`.
        """
        check_digest(digest)
        with self._failures(digest):
            return int(await asyncio.to_thread(self._fs.size, self.path_of(digest)))

    async def chunks(self, digest: str) -> AsyncIterator[bytes]:
        """The artifact in chunks of 256 KiB; only one is in memory at a time.

        The digest is checked at the end: do not use the bytes before the iterator has ended
        without an error.

        Raises:
            InvalidRequestError, NotFoundError, UnavailableError: as `load`, before the first chunk.
            ArtifactCorruptError: as `load`, after the last chunk.
        """
        check_digest(digest)
        with self._failures(digest):
            file = await asyncio.to_thread(self._fs.open, self.path_of(digest), "rb")
        hasher = hashlib.sha256()
        try:
            while True:
                with self._failures(digest):
                    chunk: bytes = await asyncio.to_thread(file.read, CHUNK_BYTES)
                if not chunk:
                    break
                hasher.update(chunk)
                yield chunk
        finally:
            await asyncio.to_thread(file.close)
        self._check_content(digest, hasher.hexdigest())

    def _check_content(self, digest: str, found: str) -> None:
        """As `check_content`. Callers may be anybody: only the service's log names the place."""
        try:
            check_content(digest, found, "the artifact store")
        except ArtifactCorruptError:
            _log.error("an artifact is damaged", path=self.path_of(digest), found=found)
            raise

    @contextmanager
    def _failures(self, digest: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no artifact {digest}.", digest=digest) from error
        except self._errors as error:
            _log.warning("the artifact store failed", url=self._url, cause=str(error))
            why = getattr(error, "strerror", None) or "the service's log has the cause"
            raise UnavailableError(
                f"the artifact store failed: {why}. Retry later.", digest=digest
            ) from error

    def _renew(self, path: str, data: bytes) -> None:
        """A file that is named again soon must not be collected as an old one before that."""
        if isinstance(self._fs, LocalFileSystem):
            os.utime(path)
        else:
            write_file(self._fs, path, data)
