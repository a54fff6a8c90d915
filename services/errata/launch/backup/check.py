"""Checks a backup up to a position, from its files alone, before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from errata.errors import (
    DataLossError,
    ErrataError,
    ImpossibleEntryError,
    InvalidRequestError,
    UnavailableError,
)
from errata.launch.backup.folder import BackupFolder
from errata.launch.backup.manifest import Manifest
from errata.launch.backup.segments import decode_segment
from errata.log.chain import ORIGIN, ChainedEntry, Position
from errata.log.entries import ArtifactRef, artifacts_of
from errata.log.fold import LogFold
from errata.log.manifest import parts_of
from errata.log.payload_convert import decode


@dataclass(frozen=True, slots=True)
class Checked:
    """A backup that holds what it says.

    Attributes:
        manifest: of the backup.
        end: the position up to which it was checked.
        artifacts: what the entries up to there name, each once.
        trusted_keys: ids of the keys that may sign commits there; none if commits are not signed.
    """

    manifest: Manifest
    end: Position
    artifacts: tuple[ArtifactRef, ...]
    trusted_keys: tuple[str, ...]


def entries_of(
    folder: BackupFolder, manifest: Manifest, until_seq: int
) -> Iterator[tuple[ChainedEntry, ...]]:
    """The verified entries up to a position, segment by segment.

    Raises:
        DataLossError: a segment is missing or damaged.
        StartupError: the backup cannot be read.
    """
    base = ORIGIN
    for segment in manifest.segments:
        if segment.first_seq > until_seq:
            return
        entries = decode_segment(segment, folder.read(segment), base)
        base = segment.end
        yield entries[: until_seq - segment.first_seq + 1]


async def check(folder: BackupFolder, at: int | None) -> Checked:
    """Verifies every file that a restore needs: chain, digests, sizes and form.

    Args:
        folder: the backup.
        at: the last entry that matters; None for all.

    Raises:
        NotFoundError: there is no backup.
        InvalidRequestError: `at` is not a position of it.
        DataLossError: a file is missing or damaged.
        PreconditionError: a later version of Errata made it.
        StartupError, UnavailableError: the backup cannot be read.
    """
    manifest = folder.manifest()
    until = manifest.head_seq if at is None else at
    if at is not None and not 1 <= at <= manifest.head_seq:
        raise InvalidRequestError(
            f"--at is {at}, but the backup {folder.url} holds the entries 1 to "
            f"{manifest.head_seq}; nothing was changed.",
            field="at",
            head_seq=manifest.head_seq,
        )
    fold, end = LogFold(), ORIGIN
    refs: dict[str, ArtifactRef] = {}
    for entries in entries_of(folder, manifest, until):
        for stored in entries:
            refs |= {ref.digest: ref for ref in _named(fold, stored)}
        end = Position(entries[-1].seq, entries[-1].chain_digest)
    for ref in refs.values():
        await _check_artifact(folder, ref)
    for ref in await _parts(folder, manifest, fold):
        await _check_artifact(folder, ref)
        refs[ref.digest] = ref
    return Checked(manifest, end, tuple(refs.values()), tuple(sorted(fold.trust.keys)))


async def _parts(
    folder: BackupFolder, manifest: Manifest, fold: LogFold
) -> tuple[ArtifactRef, ...]:
    """The parts of the newest snapshot, if the backup has them all: older ones are not copied."""
    if fold.snapshot is None:
        return ()
    named = fold.snapshot.manifest
    parts = parts_of(await folder.artifacts.get(named.digest, named.size_bytes))
    return parts if set(parts) <= set(manifest.artifacts) else ()


def _named(fold: LogFold, stored: ChainedEntry) -> tuple[ArtifactRef, ...]:
    """The artifacts that readers of this entry need; none if they cannot apply it."""
    try:
        entry = decode(stored)
        fold.add(entry)
    except ImpossibleEntryError as error:
        fold.skip(stored.seq, error.metadata["problem"])
        return ()
    return artifacts_of(entry.payload)


async def _check_artifact(folder: BackupFolder, ref: ArtifactRef) -> None:
    try:
        length = 0
        async for chunk in folder.artifacts.chunks(ref.digest):
            length += len(chunk)
    except UnavailableError:
        raise
    except ErrataError as error:
        raise _bad_artifact(folder, ref, error.message) from error
    if length != ref.size_bytes:
        raise _bad_artifact(folder, ref, f"it has {length:,} bytes, not {ref.size_bytes:,}.")


def _bad_artifact(folder: BackupFolder, ref: ArtifactRef, why: str) -> DataLossError:
    return DataLossError(
        f"artifact {ref.digest} of the backup {folder.url} is missing or damaged: {why} Nothing "
        "was changed. Run `errata backup --check` into it again if its log still runs, or take "
        "another copy.",
        digest=ref.digest,
    )
