"""The place of a backup: a folder or any fsspec URL.

| path | content |
|---|---|
| `manifest.json` | the newest manifest |
| `segments/<sha256>.segment` | entries |
| `artifacts/ab/<sha256>.safetensors` | artifacts, as in the artifact store |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from errata.artifacts.files import open_place, write_file
from errata.artifacts.source import digest_of
from errata.artifacts.store import ArtifactStore
from errata.errors import ArtifactCorruptError, ErrataError, NotFoundError, StartupError
from errata.launch.backup.manifest import Manifest, Segment, read_manifest
from errata.launch.backup.segments import damaged
from errata.log.entries import ArtifactRef

_MANIFEST = "manifest.json"


class BackupFolder:
    """One backup.

    Attributes:
        url: as the user named it.
        artifacts: the backup's artifacts.
    """

    def __init__(self, url: str, *, max_artifact_bytes: int) -> None:
        """Opens nothing yet.

        Args:
            url: a folder, or an fsspec URL.
            max_artifact_bytes: limit for one artifact.

        Raises:
            StartupError: the protocol is unknown to fsspec, or its package is not installed.
        """
        place = open_place(url, "the backup")
        self.url = url
        self._fs, self._root, self._errors = place.fs, place.root, place.errors
        store = f"{url.rstrip('/')}/artifacts"
        self.artifacts = ArtifactStore(store, max_bytes=max_artifact_bytes)

    def held(self) -> Manifest | None:
        """The manifest of the backup that is there; None without one.

        Raises:
            DataLossError, PreconditionError: as `read_manifest`.
            StartupError: the place cannot be read.
        """
        with self._failures("read"):
            try:
                data: bytes = self._fs.cat_file(f"{self._root}/{_MANIFEST}")
            except (FileNotFoundError, NotADirectoryError):
                return None
        return read_manifest(data, self.url)

    def manifest(self) -> Manifest:
        """The manifest of the backup that must be there.

        Raises:
            NotFoundError: there is none.
            DataLossError, PreconditionError, StartupError: as `held`.
        """
        found = self.held()
        if found is None:
            raise NotFoundError(
                f"{self.url} holds no backup: it has no {_MANIFEST}, which is written last. Name "
                "the folder that `errata backup` wrote; if that was interrupted, run it again."
            )
        return found

    def holds(self, segment: Segment, *, thorough: bool = False) -> bool:
        """Whether a segment's file is there and has its size; and its digest, if `thorough`."""
        with self._failures("read"):
            try:
                if int(self._fs.size(self._path(segment))) != segment.size_bytes:
                    return False
            except FileNotFoundError:
                return False
        return not thorough or digest_of(self.read(segment)) == segment.digest

    async def holds_artifact(self, ref: ArtifactRef, *, thorough: bool = False) -> bool:
        """Whether an artifact's file is there and has its size; and its digest, if `thorough`.

        Raises:
            UnavailableError: the place cannot be read.
        """
        try:
            if thorough:
                await self.artifacts.get(ref.digest, ref.size_bytes)
            return await self.artifacts.size(ref.digest) == ref.size_bytes
        except (NotFoundError, ArtifactCorruptError):
            return False

    def read(self, segment: Segment) -> bytes:
        """A segment's file, not verified.

        Raises:
            DataLossError: it is missing.
            StartupError: the place cannot be read.
        """
        with self._failures("read"):
            try:
                data: bytes = self._fs.cat_file(self._path(segment))
            except FileNotFoundError as error:
                raise damaged(segment, "there is no such file") from error
        return data

    def write(self, segment: Segment, data: bytes) -> None:
        """Writes a segment's file.

        Raises:
            StartupError: the place cannot be written to.
        """
        with self._failures("written"):
            write_file(self._fs, self._path(segment), data)

    def finish(self, manifest: Manifest) -> None:
        """Writes the manifest: from here on the backup is this one.

        Raises:
            StartupError: the place cannot be written to.
        """
        with self._failures("written"):
            write_file(self._fs, f"{self._root}/{_MANIFEST}", manifest.encoded())

    def remove(self, segments: Iterable[Segment]) -> None:
        """Removes segments that no manifest names any more.

        Raises:
            StartupError: the place cannot be written to.
        """
        with self._failures("written"):
            for segment in segments:
                try:
                    self._fs.rm_file(self._path(segment))
                except FileNotFoundError:
                    pass  # another backup removed it

    def _path(self, segment: Segment) -> str:
        return f"{self._root}/segments/{segment.digest}.segment"

    @contextmanager
    def _failures(self, verb: str) -> Iterator[None]:
        try:
            yield
        except ErrataError:
            raise
        except self._errors as error:
            why = getattr(error, "strerror", None) or str(error)
            raise StartupError(
                f"the backup {self.url} cannot be {verb}: {why}. Give a place that this user can "
                "read and write."
            ) from error
