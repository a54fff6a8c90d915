"""Snapshots of the log: the writer starts from them, and makes and names new ones.

The writer captures its state at one position, stores it beside its work, and names it in the log
only when a replica has reported the same state digest there and the stored bytes have been restored
in a second applier that then is the same, part by part.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from errata.artifacts.source import digest_of
from errata.artifacts.store import ArtifactStore
from errata.editing.model.scratch import ScratchLLM
from errata.errors import DataLossError, ErrataError
from errata.indices.faiss_indices import FaissIndices
from errata.log.entries import ArtifactRef, SnapshotTaken
from errata.platform.failpoints import failpoint_async
from errata.platform.retry import until_available
from errata.platform.settings import WriterSettings
from errata.replica.applier import Applier
from errata.replica.snapshot import LEDGER, CapturedState, Manifest, Snapshot
from errata.replica.snapshot_parts import load_group, load_snapshot, make_manifest
from errata.replica.snapshot_start import begin
from errata.writer.edited_model import Captured, EditedModel
from errata.writer.ledger_pages import ledger_pages, read_ledger
from errata.writer.log_client import LogClient
from errata.writer.publish import Publisher

_log = structlog.get_logger(__name__)
_ASK_SECONDS = 0.5
_MOST_PATIENCES = 10  # between attempts: none may succeed for days, and each costs a capture
_WORKER, _RETRIEVAL = "worker", "retrieval"


async def begin_from_newest(edited: EditedModel, log: LogClient, store: ArtifactStore) -> None:
    """Moves the writer's ledger and model behind the log's newest snapshot, if it is usable.

    Raises:
        SeqTrimmedError: it is not usable, and the log no longer has its first entry.
    """
    state = await until_available(log.state, "the log")

    async def load(named: SnapshotTaken) -> Snapshot:
        return await _loaded(edited, store, named)

    async def restore(snapshot: Snapshot) -> None:
        pages = await until_available(
            lambda: load_group(store, snapshot.manifest, LEDGER), "artifacts"
        )
        ledger = await asyncio.to_thread(read_ledger, pages)
        await edited.begin_from(snapshot, ledger, state.log_id)

    await begin(state, load, restore)


async def skip_to_newest(edited: EditedModel, log: LogClient, store: ArtifactStore) -> None:
    """Lets a standby that takes over begin with the log's newest snapshot, if it is usable."""
    named = (await until_available(log.state, "the log")).snapshot
    if named is None or named.seq <= edited.begun_from_seq:
        return
    try:
        snapshot = await _loaded(edited, store, named)
    except ErrataError as error:
        _log.warning("the newest snapshot is not used", seq=named.seq, reason=error.message)
        return
    edited.skip_to(snapshot)


async def _loaded(edited: EditedModel, store: ArtifactStore, named: SnapshotTaken) -> Snapshot:
    """All lanes with their memories; raises as `load_snapshot`."""
    return await load_snapshot(
        store, named, edited.model.digest, holds=lambda _: True, with_memory=True
    )


class SnapshotMaker:
    """Makes a snapshot every so many entries."""

    def __init__(
        self,
        edited: EditedModel,
        publisher: Publisher,
        log: LogClient,
        store: ArtifactStore,
        settings: WriterSettings,
    ) -> None:
        """Makes none yet.

        Args:
            edited: the writer's model and ledger.
            publisher: appends to the log.
            log: tells what replicas reported.
            store: receives the parts.
            settings: interval and patience.
        """
        self._edited = edited
        self._publisher = publisher
        self._log = log
        self._store = store
        self._interval = settings.snapshot_interval
        self._patience = settings.snapshot_patience_seconds
        self._known: frozenset[str] = frozenset()  # stored parts of the last snapshot

    async def run(self) -> None:
        """Makes snapshots until the model is closing; none if the interval is 0."""
        edited = self._edited
        await edited.wait_until_begun()
        pause = 0.0
        while self._interval and not edited.is_closing:
            await edited.ledger.wait_until(lambda: edited.is_closing or self._is_due())
            if edited.is_closing:
                return
            try:
                is_taken = await self.take()
            except (ErrataError, OSError) as error:
                _log.error("no snapshot was taken", reason=str(error))
                self._known = frozenset()  # a damaged part is stored again
                is_taken = False
            longest = _MOST_PATIENCES * self._patience
            pause = 0.0 if is_taken else min(max(self._patience, 2 * pause), longest)
            await asyncio.sleep(pause)

    async def take(self) -> bool:
        """Makes a snapshot of the present state, and names it in the log.

        Returns:
            Whether an entry names it; if not, the process's log says why.
        """
        begun, captured = time.monotonic(), await self._captured()
        lanes = await asyncio.to_thread(captured.lanes)
        verified_by = await self._agreeing(captured.position.seq, lanes)
        if not verified_by:
            return False
        await failpoint_async("writer.snapshot.before_store")
        manifest = await asyncio.to_thread(self._manifest, captured, lanes, self._put)
        data = manifest.to_bytes()
        named = SnapshotTaken(
            seq=manifest.position.seq,
            chain_digest=manifest.position.chain_digest,
            manifest=await self._publisher.store(data),
            state_digest=manifest.state_digest,
            base_model_digest=manifest.base_model_digest,
            verified_by=verified_by,
        )
        await failpoint_async("writer.snapshot.before_check")
        await self._check(named, captured)
        await failpoint_async("writer.snapshot.before_entry")
        at = await self._publisher.append_own(f"snapshot|{named.seq}|{digest_of(data)}", named)
        await failpoint_async("writer.snapshot.after_entry")
        self._known = frozenset(manifest.artifacts())
        seconds = round(time.monotonic() - begun, 1)
        _log.info("snapshot taken", seq=named.seq, at=at, verified_by=verified_by, seconds=seconds)
        return True

    async def _captured(self) -> Captured:
        while True:
            async with self._edited.exclusive():
                captured = await self._edited.capture()
            if captured is not None:
                return captured
            await asyncio.sleep(_ASK_SECONDS)

    def _is_due(self) -> bool:
        newest = self._edited.named_snapshot
        last = 0 if newest is None else newest.seq
        return self._edited.work_seq - last >= self._interval

    def _manifest(
        self, captured: Captured, lanes: CapturedState, put: Callable[[bytes], ArtifactRef]
    ) -> Manifest:
        return make_manifest(
            put,
            self._log.log_id,
            captured.position,
            self._edited.model.digest,
            lanes,
            captured.fold,
            ledger_pages(captured.ledger),
        )

    def _put(self, page: bytes) -> ArtifactRef:
        ref = _ref_of(page)
        if ref.digest not in self._known:
            self._store.save(page)
        return ref

    async def _agreeing(self, seq: int, lanes: CapturedState) -> str:
        """A replica that had the same state there; empty if none did in time, or one differs."""
        deadline = time.monotonic() + self._patience
        roles = {_WORKER}
        if lanes.routed_digest == lanes.state_digest:  # no lane changes weights
            roles.add(_RETRIEVAL)
        while True:
            reported = await self._log.digests_at(seq)
            counted = {r.replica: r.state_digest for r in reported if r.role in roles}
            differing = sorted(n for n, found in counted.items() if found != lanes.state_digest)
            if differing:
                _log.critical(
                    "replicas have another state than the writer; no snapshot is named. Compare "
                    "`errata status`, and restart those that differ",
                    seq=seq,
                    replicas=differing,
                )
                return ""
            if counted:
                return min(counted)
            if time.monotonic() > deadline:
                _log.warning(
                    "no replica reported its state at the snapshot, which is not named; the next "
                    "attempt follows. A worker must run, or retrieval if no lane changes weights",
                    seq=seq,
                )
                return ""
            await asyncio.sleep(_ASK_SECONDS)

    async def _check(self, named: SnapshotTaken, captured: Captured) -> None:
        """Restores the stored bytes in a second applier, and makes the manifest of it again.

        Raises:
            DataLossError: it is another one.
        """
        llm = ScratchLLM(self._edited.model, captured.base_weights)
        applier = Applier(llm, self._store, FaissIndices(), keep_memory=True)
        snapshot = await load_snapshot(
            self._store, named, llm.digest, holds=applier.holds, with_memory=True
        )
        pages = await load_group(self._store, snapshot.manifest, LEDGER)
        ledger = await asyncio.to_thread(read_ledger, pages)

        def again() -> Manifest:
            applier.restore(snapshot)
            restored = Captured(snapshot.position, applier.capture(), {}, snapshot.fold, ledger)
            return self._manifest(restored, restored.lanes(), _ref_of)

        found = await asyncio.to_thread(again)
        if found.to_bytes() != snapshot.manifest.to_bytes():
            differing = [
                group
                for group, refs in found.parts.items()
                if refs != snapshot.manifest.parts.get(group)
            ]
            raise DataLossError(
                f"the stored snapshot at entry {named.seq} restores to another state "
                f"({', '.join(differing)}); it is not named. Please report this.",
                seq=named.seq,
            )


def _ref_of(page: bytes) -> ArtifactRef:
    return ArtifactRef(digest_of(page), len(page))
