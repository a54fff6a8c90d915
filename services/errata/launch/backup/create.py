"""`errata backup`: copies a running log and its artifacts, and at the end the manifest.

It copies the log up to the head at which it begins. Entries never change and their artifacts are
stored before them, so the copy is consistent whatever is appended meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from errata.artifacts.remote import RemoteArtifacts
from errata.errors import (
    DataLossError,
    ImpossibleEntryError,
    LogBehindWitnessError,
    NotFoundError,
    PreconditionError,
)
from errata.launch.backup.folder import BackupFolder
from errata.launch.backup.manifest import Manifest, Segment
from errata.launch.backup.segments import SegmentWriter, is_full
from errata.log.chain import ORIGIN, ChainedEntry, Position, verify_run
from errata.log.entries import ArtifactRef, LaneConfigured, artifacts_of
from errata.log.history import LogState
from errata.log.manifest import parts_of
from errata.log.payload_convert import decode
from errata.log.remote import RemoteLog
from errata.platform.server import open_channel

_ARTIFACT_SECONDS = 900.0  # gigabytes over a slow link


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds, and what this run copied of it.

    Attributes:
        where: the backup.
        log_id: of the log.
        head_seq: the last entry in the backup.
        num_artifacts: in the backup.
        new_entries: copied by this run.
        new_artifacts: copied by this run.
        new_bytes: in the files that this run wrote, without the manifest.
        seconds: that it took.
    """

    where: str
    log_id: str
    head_seq: int
    num_artifacts: int
    new_entries: int
    new_artifacts: int
    new_bytes: int
    seconds: float


async def back_up(
    address: str, folder: BackupFolder, *, max_artifact_bytes: int, thorough: bool = False
) -> Backup:
    """Copies a log into a folder, which may hold an earlier backup of it.

    Args:
        address: `host:port` of the log service.
        folder: receives what it does not hold yet.
        max_artifact_bytes: limit for one artifact.
        thorough: read also what the folder holds, and copy damaged files again.

    Raises:
        PreconditionError: the folder holds a backup of another log, or of another Errata's form.
        DataLossError: the backup that is there is damaged, or the log does not continue it.
        StartupError: the folder cannot be used.
        LogUnavailableError: the log service cannot be reached.
    """
    begun, created = time.monotonic(), datetime.now(UTC)
    held = await asyncio.to_thread(folder.held)
    async with open_channel(address) as channel:
        log = RemoteLog(channel)
        state = await log.state()
        _check_continues(held, state, folder.url)
        copy = _Copy(folder, state, await asyncio.to_thread(_usable, folder, held, thorough))
        await copy.take_entries(log, held.head if held else ORIGIN)
        known = held.artifacts if held else ()
        source = RemoteArtifacts(
            channel, timeout_seconds=_ARTIFACT_SECONDS, max_bytes=max_artifact_bytes
        )
        if state.snapshot is not None:  # with its parts, a restored system starts as fast
            named = state.snapshot.manifest
            copy.refs += parts_of(await source.get(named.digest, named.size_bytes))
        artifacts = {ref.digest: ref for ref in (*known, *copy.refs)}
        missing = [
            ref
            for ref in artifacts.values()
            if not await folder.holds_artifact(ref, thorough=thorough)
        ]
        for ref in missing:
            await folder.artifacts.put(await _fetched(source, ref))
    base_model = copy.base_model or (held.base_model_digest if held else "")
    manifest = _manifest(state, base_model, created, copy.segments, artifacts)
    await asyncio.to_thread(folder.finish, manifest)
    if held is not None:
        await asyncio.to_thread(folder.remove, set(held.segments) - set(manifest.segments))
    return Backup(
        where=folder.url,
        log_id=state.log_id,
        head_seq=state.head.seq,
        num_artifacts=len(artifacts),
        new_entries=state.head.seq - (held.head_seq if held else 0),
        new_artifacts=len(missing),
        new_bytes=copy.num_bytes + sum(ref.size_bytes for ref in missing),
        seconds=time.monotonic() - begun,
    )


async def _fetched(source: RemoteArtifacts, ref: ArtifactRef) -> bytes:
    try:
        return await source.get(ref.digest, ref.size_bytes)
    except NotFoundError as error:
        raise DataLossError(
            f"artifact {ref.digest}, which an entry names, is gone from the artifact store, so the "
            "log cannot be copied as a whole. If `errata artifacts gc --drop-archived-before` "
            "removed it, go on with a backup that was begun earlier; else restore the artifact.",
            digest=ref.digest,
        ) from error


def _manifest(
    state: LogState,
    base_model: str,
    created: datetime,
    segments: Sequence[Segment],
    artifacts: Mapping[str, ArtifactRef],
) -> Manifest:
    return Manifest(
        log_id=state.log_id,
        head_seq=state.head.seq,
        chain_digest=state.head.chain_digest.hex(),
        epoch=state.epoch,
        base_model_digest=base_model,
        created=created.isoformat(timespec="seconds"),
        segments=tuple(segments),
        artifacts=tuple(artifacts[digest] for digest in sorted(artifacts)),
    )


def _check_continues(held: Manifest | None, state: LogState, where: str) -> None:
    """Checks that the log can be a later state of the one in the backup."""
    if held is None:
        return
    if held.log_id != state.log_id:
        raise PreconditionError(
            f"{where} holds a backup of log {held.log_id}, and this is log {state.log_id}. Nothing "
            "was changed. Name another folder: a restored log, too, needs a new one.",
            log_id=state.log_id,
            backup_log_id=held.log_id,
        )
    if held.head_seq > state.head.seq:
        raise LogBehindWitnessError(
            f"the backup in {where} holds {held.head_seq} entries, but the log ends at "
            f"{state.head.seq}: the log lost entries. Nothing was changed. Restore the backup, or "
            "name another folder to keep what is left.",
            head_seq=state.head.seq,
            backup_seq=held.head_seq,
        )


def _usable(folder: BackupFolder, held: Manifest | None, thorough: bool) -> list[Segment]:
    """The full segments up to the first that is missing; the last one is often not full."""
    found: list[Segment] = []
    for segment in held.segments if held else ():
        if not is_full(segment) or not folder.holds(segment, thorough=thorough):
            break
        found.append(segment)
    return found


class _Copy:
    """The entries of one run.

    Attributes:
        segments: of the backup, in order.
        refs: artifacts that the new entries name.
        base_model: digest of the model that the new entries are for; empty if none says it.
        num_bytes: of the new segments.
    """

    def __init__(self, folder: BackupFolder, state: LogState, segments: list[Segment]) -> None:
        self.segments = segments
        self.refs: list[ArtifactRef] = []
        self.base_model = ""
        self.num_bytes = 0
        self._folder = folder
        self._head = state.head
        # Readers skip them, so what they name need not exist.
        self._skipped: Collection[int] = {*state.voided, *state.impossible}

    async def take_entries(self, log: RemoteLog, known: Position) -> None:
        """Copies the entries behind the segments, up to the head.

        Args:
            log: whose entries continue those of the segments.
            known: a position that the log must have; the last segment, which is written anew,
                does not show it.
        """
        writer = SegmentWriter()
        position = self.segments[-1].end if self.segments else ORIGIN
        async for page in self._pages(log, position):
            position = self._verified(position, page)
            for entry in page:
                if entry.seq == known.seq and entry.chain_digest != known.chain_digest:
                    raise self._another_history(f"entry {entry.seq} is another one.")
                self._note(entry)
                writer.add(entry)
                if writer.is_full:
                    await self._write(writer)
        if len(writer):
            await self._write(writer)
        if position != self._head:
            raise self._another_history(f"entry {position.seq} has another chain digest.")

    async def _pages(
        self, log: RemoteLog, position: Position
    ) -> AsyncIterator[tuple[ChainedEntry, ...]]:
        seq = position.seq + 1
        while seq <= self._head.seq:
            page = await log.entries(seq)
            if not page:
                raise self._another_history(f"entry {seq} is missing.")
            yield tuple(entry for entry in page if entry.seq <= self._head.seq)
            seq += len(page)

    def _verified(self, position: Position, page: tuple[ChainedEntry, ...]) -> Position:
        try:
            return verify_run(position, page)
        except LogBehindWitnessError as error:
            raise self._another_history(error.message) from error

    def _another_history(self, why: str) -> LogBehindWitnessError:
        return LogBehindWitnessError(
            f"the log does not continue the backup in {self._folder.url}, or not itself: {why} The "
            "backup is as it was. Run `errata verify`; name another folder to keep this log."
        )

    def _note(self, stored: ChainedEntry) -> None:
        if stored.seq in self._skipped:
            return
        try:
            payload = decode(stored).payload
        except ImpossibleEntryError:
            return
        if isinstance(payload, LaneConfigured) and not self.base_model:
            self.base_model = payload.base_model_digest
        self.refs += artifacts_of(payload)

    async def _write(self, writer: SegmentWriter) -> None:
        segment, data = await asyncio.to_thread(writer.close)
        # An interrupted backup, or the one before, may have written the same file.
        if not await asyncio.to_thread(self._folder.holds, segment, thorough=True):
            await asyncio.to_thread(self._folder.write, segment, data)
            self.num_bytes += segment.size_bytes
        self.segments.append(segment)
