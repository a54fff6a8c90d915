"""Stores the parts of snapshots as artifacts, and loads them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from errata.artifacts.source import ArtifactSource
from errata.editing.artifact import Artifact
from errata.editing.lane.commits import LaneDump
from errata.editing.lane.pages import cut, join
from errata.log.chain import Position
from errata.log.entries import ArtifactRef, LaneConfigured, SnapshotTaken
from errata.log.fold import LogFold
from errata.replica.fold_pages import fold_pages, read_fold
from errata.replica.snapshot import (
    FOLD,
    LEDGER,
    CapturedState,
    HeldLane,
    Manifest,
    Snapshot,
    contents_of,
    memory_of,
)

T = TypeVar("T")
_AT_ONCE = 8  # parts that are fetched at a time


def make_manifest(
    put: Callable[[bytes], ArtifactRef],
    log_id: str,
    position: Position,
    base_model: str,
    captured: CapturedState,
    fold: LogFold,
    ledger: Iterable[bytes],
) -> Manifest:
    """The manifest of a state, part by part; blocks.

    Args:
        put: takes each part, and stores it if it is not stored yet.
        log_id: the log's identity.
        position: of the snapshot.
        base_model: digest of the LLM.
        captured: the lanes there.
        fold: the entries up to there.
        ledger: pages of the writer's ledger there.

    Returns:
        The manifest; it is not given to `put`.
    """

    def put_all(pages: Iterable[bytes]) -> tuple[ArtifactRef, ...]:
        return tuple(put(page) for page in pages)

    parts = {FOLD: put_all(fold_pages(fold, captured.commit_seq)), LEDGER: put_all(ledger)}
    for lane, dump in captured.lanes.items():
        tables = {contents_of(lane): dump.contents, memory_of(lane): dump.memory}
        for group, table in tables.items():
            if table is not None:
                parts[group] = put_all(page.to_bytes() for page in cut(table))
    return Manifest(
        log_id,
        position,
        base_model,
        captured.state_digest,
        captured.routed_digest,
        {lane: dump.model_digest for lane, dump in captured.lanes.items()},
        parts,
        version=_version_of(fold),
    )


def _version_of(fold: LogFold) -> int:
    """The oldest format that says all of it, so that releases which know it can start from it."""
    if fold.canaries.is_used:
        return 4
    return 3 if fold.has_namespaces else 2 if fold.has_policy else 1


async def load_snapshot(
    artifacts: ArtifactSource,
    named: SnapshotTaken,
    base_model: str | None,
    *,
    holds: Callable[[LaneConfigured], bool],
    with_memory: bool,
) -> Snapshot:
    """Loads and checks a snapshot.

    Args:
        artifacts: source of the parts.
        named: the entry that names it.
        base_model: digest of the LLM; None in processes that have none.
        holds: whether the process holds a lane; the contents of others are not loaded.
        with_memory: whether to load what later fits need.

    Raises:
        BaseModelMismatchError: it is of another base model.
        PreconditionError: a newer version made it.
        ArtifactCorruptError, NotFoundError: it, or a part of it, is damaged or missing.
        UnavailableError: the source cannot be reached; retry.
    """
    manifest = await load_manifest(artifacts, named.manifest)
    manifest.check(named, base_model)
    pages = await load_group(artifacts, manifest, FOLD)
    fold, commit_seq = await asyncio.to_thread(read_fold, pages)
    lanes = {}
    for configured in fold.lanes.values():
        if configured.lane in manifest.lane_models and holds(configured):
            lanes[configured.lane] = await _lane(artifacts, manifest, configured.lane, with_memory)
    return Snapshot(named, manifest, fold, commit_seq, lanes)


async def load_manifest(artifacts: ArtifactSource, ref: ArtifactRef) -> Manifest:
    """Loads a manifest; raises as `load_snapshot`."""
    return Manifest.from_bytes(await artifacts.get(ref.digest, ref.size_bytes))


async def load_group(artifacts: ArtifactSource, manifest: Manifest, group: str) -> list[bytes]:
    """The parts of a group; raises as `load_snapshot`."""
    return await _load_all(artifacts, manifest, group, lambda part: part)


async def _load_all(
    artifacts: ArtifactSource, manifest: Manifest, group: str, read: Callable[[bytes], T]
) -> list[T]:
    """The parts of a group as `read` reads them, on threads; raises as `load_snapshot`."""

    async def one(ref: ArtifactRef) -> T:
        return await asyncio.to_thread(read, await artifacts.get(ref.digest, ref.size_bytes))

    refs, found = manifest.parts.get(group, ()), list[T]()
    for start in range(0, len(refs), _AT_ONCE):
        found += await asyncio.gather(*map(one, refs[start : start + _AT_ONCE]))
    return found


async def _lane(
    artifacts: ArtifactSource, manifest: Manifest, lane: str, with_memory: bool
) -> HeldLane:
    digest = manifest.lane_models[lane]
    model = None
    if digest:
        model = await asyncio.to_thread(Artifact.from_bytes, await artifacts.get(digest))
    groups: Mapping[str, bool] = {contents_of(lane): True, memory_of(lane): with_memory}
    tables = []
    for group, is_wanted in groups.items():
        pages = list[Artifact]()
        if is_wanted:
            pages = await _load_all(artifacts, manifest, group, Artifact.from_bytes)
        tables.append(await asyncio.to_thread(join, pages) if pages else None)
    return HeldLane(LaneDump(digest, *tables), model)
