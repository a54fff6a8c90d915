"""`errata artifacts gc`: which artifacts nothing names, and their removal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from rich.console import RenderableType

from errata.artifacts.store import ArtifactStore, StoredFile
from errata.errors import (
    ImpossibleEntryError,
    InvalidRequestError,
    LogBehindWitnessError,
    NotFoundError,
    PreconditionError,
)
from errata.launch.output import line, lines
from errata.launch.verify.sources import entries_in_redis, redis_of_box
from errata.log.archive.archive import Archive
from errata.log.archive.records import Records
from errata.log.backend import Reading, RedisBackend
from errata.log.chain import ORIGIN, ChainedEntry, Position, verify_run
from errata.log.entries import Entry, SnapshotTaken, artifacts_of
from errata.log.manifest import lane_models_of, parts_of
from errata.log.payload_convert import decode
from errata.log.witness import WitnessRecord, read_witness
from errata.platform.settings import LogSettings, Settings

MIN_AGE = timedelta(hours=1)
"""Files younger than this are never removed: their entry may be on its way."""

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Garbage:
    """What can be removed.

    Attributes:
        head_seq: the last entry that was read.
        named: number of files that the log, its snapshots or its archive name.
        named_bytes: of these files.
        young: number of files that nothing names, and that are too young.
        files: that nothing names.
        lost: those of them that archived entries name; only if asked for.
    """

    head_seq: int
    named: int
    named_bytes: int
    young: int
    files: tuple[StoredFile, ...]
    lost: tuple[StoredFile, ...]


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection did, or would do.

    Attributes:
        dry_run: nothing was removed.
        head_seq: the last entry that was read.
        kept: number of files that are named.
        kept_bytes: of these files.
        young: number of files that nothing names, and that are too young.
        removed: number of files; with `dry_run`, that would be removed.
        freed_bytes: of these files.
        lost: number of removed files that archived entries name.
    """

    dry_run: bool
    head_seq: int
    kept: int
    kept_bytes: int
    young: int
    removed: int
    freed_bytes: int
    lost: int


@dataclass(slots=True)
class _Named:
    """What the log names.

    Attributes:
        kept: digests that stay.
        dropped: digests that only entries before `before_seq` name.
        snapshots: all entries that name one, oldest first.
    """

    before_seq: int
    kept: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    snapshots: list[tuple[int, SnapshotTaken]] = field(default_factory=list)
    position: Position = ORIGIN

    def take(self, stored: ChainedEntry) -> None:
        self.position = verify_run(self.position, [stored])
        entry = _decoded(stored)
        if entry is None:
            return
        self.note(entry.seq, [ref.digest for ref in artifacts_of(entry.payload)])
        if isinstance(entry.payload, SnapshotTaken):
            self.snapshots.append((entry.seq, entry.payload))

    def note(self, seq: int, digests: Iterable[str]) -> None:
        names = self.dropped if seq < self.before_seq else self.kept
        names.update(digests)


def age_of(text: str) -> timedelta:
    """An age such as `36h`, `2d` or `90m`.

    Raises:
        InvalidRequestError: it is none, or below `MIN_AGE`.
    """
    found = re.fullmatch(r"(\d+)([mhd])", text)
    age = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else timedelta(0)
    if age < MIN_AGE:
        raise InvalidRequestError(
            f"min-age is {text!r}; give at least 1h, such as 36h or 2d: an artifact is stored "
            "before the entry that names it.",
            field="min_age",
        )
    return age


async def collected(
    settings: Settings,
    min_age: timedelta,
    drop_before: int | None,
    confirm: Callable[[int], None],
    *,
    dry_run: bool,
) -> Collection:
    """Collects the artifacts that nothing names.

    Args:
        settings: name the artifact store, and the Redis or the folder of a box.
        min_age: younger files are left alone.
        drop_before: also removes what only archived entries before this position name.
        confirm: called with the number of such artifacts before anything is removed; raises to
            stop.
        dry_run: removes nothing.

    Raises:
        ErrataError: as `find_garbage` and `collect`.
    """
    store = ArtifactStore(settings.artifacts_url, max_bytes=settings.artifacts.max_bytes)
    witness = read_witness(settings.log.witness_path)  # before the copy of a box is made
    async with AsyncExitStack() as held:
        if "redis_url" in settings.log.model_fields_set:
            log = settings.log
        else:
            log = await held.enter_async_context(redis_of_box(settings))
        found = await find_garbage(log, store, witness, min_age, drop_before)
    if found.lost and not dry_run:
        confirm(len(found.lost))
    return collect(store, found, min_age, dry_run=dry_run)


async def find_garbage(
    log: LogSettings,
    store: ArtifactStore,
    witness: WitnessRecord | None,
    min_age: timedelta,
    drop_before: int | None,
) -> Garbage:
    """Looks for files that nothing names; removes nothing.

    Args:
        log: its Redis; services may run.
        store: of this log alone.
        witness: read before this call; one of another log is ignored.
        min_age: younger files are left alone.
        drop_before: also lists what only entries before this position name; it must be archived
            and covered by a snapshot.

    Raises:
        PreconditionError: the log is empty; an entry, a snapshot or an archive cannot be read; or
            no snapshot covers the entries before `drop_before`.
        LogBehindWitnessError: Redis holds fewer entries than were acknowledged, or others.
        ErrataError: Redis or the store cannot be used, as for `errata verify`.
    """
    files = list(store.files())  # first, so that what is stored meanwhile is not in the list
    latest = datetime.now(UTC) - min_age
    backend = RedisBackend(log)
    try:
        records = Records(backend, store)
        reading = await backend.read(1, 0, 1)
        if reading is None or witness is None or witness.log_id != reading.log_id:
            witness = None
        named = await _named(log, store, drop_before or 0, witness)
        if not named.position.seq:
            raise PreconditionError(
                "the log is empty and cannot say which artifacts are needed; nothing is removed. "
                "Correct log.redis_url, log.key_prefix or data_dir."
            )
        if reading is not None and reading.archive is not None:
            index = await records.index(reading)
            named.kept |= {reading.archive.digest, *(ref.digest for ref in index.artifacts())}
    finally:
        await backend.close()
    await _add_parts(named, Archive(store))
    if drop_before is not None:
        await _check_covered(named, Archive(store), reading, drop_before)
    stays = [file for file in files if file.digest in named.kept]
    others = [file for file in files if file.digest not in named.kept]
    old = tuple(_older(store, others, latest))
    return Garbage(
        head_seq=named.position.seq,
        named=len(stays),
        named_bytes=sum(file.size_bytes for file in stays),
        young=len(others) - len(old),
        files=old,
        lost=tuple(file for file in old if file.digest in named.dropped),
    )


def collect(
    store: ArtifactStore, found: Garbage, min_age: timedelta, *, dry_run: bool
) -> Collection:
    """Removes what was found, except files that were stored again meanwhile.

    Raises:
        UnavailableError: the store failed; the other files are as they were.
    """
    latest = datetime.now(UTC) - min_age
    removed = [file for file in found.files if dry_run or store.remove(file, latest)]
    return Collection(
        dry_run=dry_run,
        head_seq=found.head_seq,
        kept=found.named,
        kept_bytes=found.named_bytes,
        young=found.young + len(found.files) - len(removed),
        removed=len(removed),
        freed_bytes=sum(file.size_bytes for file in removed),
        lost=len(set(removed) & set(found.lost)),
    )


def collection_lines(found: Collection) -> RenderableType:
    """The outcome, for a terminal."""
    verb = "would be removed" if found.dry_run else "removed"
    texts = [
        f"{found.head_seq:,} entries name {found.kept:,} files of {found.kept_bytes:,} bytes",
        f"{found.young:,} files that nothing names are too young",
        f"{found.removed:,} files {verb}: {found.freed_bytes:,} bytes",
    ]
    if found.lost:
        texts.append(f"{found.lost:,} of them are named by archived entries only")
    return lines(map(line, texts))


async def _named(
    log: LogSettings, store: ArtifactStore, before_seq: int, witness: WitnessRecord | None
) -> _Named:
    named = _Named(before_seq)
    async with aclosing(entries_in_redis(log, store)) as entries:
        async for stored in entries:
            named.take(stored)
            if witness is not None and named.position.seq == witness.head.seq:
                _check_witness(named.position, witness)
    if witness is not None and named.position.seq < witness.head.seq:
        _check_witness(named.position, witness)
    return named


def _check_witness(found: Position, witness: WitnessRecord) -> None:
    if found != witness.head:
        raise LogBehindWitnessError(
            f"Redis ends at entry {found.seq} or holds other entries than the witness, which has "
            f"seen entry {witness.head.seq}: artifacts that the log needs would be removed. "
            "Restore Redis first.",
            head_seq=found.seq,
            witness_seq=witness.head.seq,
        )


def _decoded(stored: ChainedEntry) -> Entry | None:
    """None for an entry that no version of Errata can read: no reader applies it.

    Raises:
        PreconditionError: a newer version can; it may name artifacts.
    """
    try:
        return decode(stored)
    except ImpossibleEntryError:
        return None


async def _add_parts(named: _Named, archive: Archive) -> None:
    """The parts of every snapshot; a manifest that was dropped earlier names nothing more."""
    for seq, snapshot in named.snapshots:
        try:
            manifest = await archive.load(snapshot.manifest)
        except PreconditionError as error:
            if isinstance(error.__cause__, NotFoundError) and seq != named.snapshots[-1][0]:
                continue
            raise
        named.note(seq, [ref.digest for ref in parts_of(manifest)])
        named.note(seq, lane_models_of(manifest))
    named.dropped -= named.kept


async def _check_covered(
    named: _Named, archive: Archive, reading: Reading | None, before: int
) -> None:
    """Checks that nobody needs the artifacts that only entries before `before` name."""
    floor_seq = 1 if reading is None else reading.floor_seq
    covering = [taken for _, taken in named.snapshots if taken.seq >= before - 1]
    if before > floor_seq or not covering:
        newest = max((taken.seq for _, taken in named.snapshots), default=0)
        raise PreconditionError(
            f"artifacts of entries before {before} are still needed: the first entry in Redis is "
            f"{floor_seq}, and the newest snapshot covers the entries up to {newest}. Name at "
            f"most entry {min(floor_seq, newest + 1)}.",
            floor_seq=floor_seq,
            snapshot_seq=newest,
        )
    for ref in (covering[-1].manifest, *parts_of(await archive.load(covering[-1].manifest))):
        await archive.check(ref)


def _older(store: ArtifactStore, files: list[StoredFile], latest: datetime) -> Iterator[StoredFile]:
    for file in files:
        try:
            if store.modified(file) < latest:
                yield file
        except NotFoundError:
            continue
