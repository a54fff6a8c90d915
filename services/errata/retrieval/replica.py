"""A retrieval replica: follows the log and decides which edits claim which prompts.

It holds no LLM. It also decides as of recent positions, because a worker asks as of the position
that its answer will report (P6), and workers are not all at the same position.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from errata.artifacts.source import ArtifactSource
from errata.editing.lane.swap import Change
from errata.editing.model.causal_lm import KnownLLM
from errata.errors import LogBehindWitnessError
from errata.indices.faiss_indices import FaissIndices
from errata.log.chain import Position
from errata.log.entries import Entry, LaneConfigured
from errata.log.subscriber import Subscriber
from errata.platform.failpoints import failpoint_async
from errata.platform.metrics import ROUTE_SECONDS, note_index
from errata.platform.settings import RetrievalSettings
from errata.replica.applier import Applier
from errata.replica.apply import PreparedEntry, prepare
from errata.replica.commit_gate import CommitGate
from errata.replica.follower import Follower, Tolerance
from errata.replica.records import recorded
from errata.replica.snapshot import Snapshot, SnapshotFolder
from errata.retrieval.deciding import Decision, RoutingQuery, check_request, decide
from errata.retrieval.disk_snapshots import DiskSnapshots
from errata.retrieval.history import RoutingHistory, RoutingSnapshot


class RetrievalReplica:
    """Follows the log; decides on batches of prompts, one batch at a time."""

    def __init__(
        self, name: str, artifacts: ArtifactSource, log_address: str, settings: RetrievalSettings
    ) -> None:
        """Prepares the replica; `start` starts it.

        Args:
            name: unique among replicas.
            artifacts: source of the commits' tensors.
            log_address: of the edit log service.
            settings: limits.

        Raises:
            StartupError: the settings' trusted_keys_file cannot be used.
        """
        self.name = name
        self._artifacts = artifacts
        self._settings = settings
        self._applier: Applier | None = None  # needs the LLM's digest, which the first lane has
        self._gate = CommitGate.of(settings)  # of the entries before the first lane
        self._history = RoutingHistory(name, settings.history)
        self._disk = self._new_disk_snapshots()
        # One thread uses encoder and indices, so that the event loop stays free to follow.
        self._thread = ThreadPoolExecutor(1, "errata-routing", self._begin_thread)
        self._subscriber = Subscriber(log_address)
        self._follower = Follower(
            name,
            "retrieval",
            self._subscriber,
            log_address,
            Tolerance(settings.max_lag, settings.max_silence_seconds),
            prepare=self._prepare,
            apply=self._apply,
            current_position=lambda: self.latest,
            device_usage=dict,
        )

    @property
    def latest(self) -> RoutingSnapshot:
        """The replica's current position, and its state there."""
        return self._history.latest

    @property
    def floor_seq(self) -> int:
        """The first position that `route` accepts as `at_seq`."""
        return self._history.floor_seq

    async def start(self) -> None:
        """Restores the newest snapshot, if there is one, and follows the log to its head.

        Raises:
            LogUnavailableError: the log cannot be reached.
            BaseModelMismatchError, DataLossError: this replica cannot apply the log.
            LogBehindWitnessError: the snapshot belongs to another history than the log's.
        """
        try:
            if self._disk is not None:
                await self._restore(self._disk)
            await self._follower.start()
        except LogBehindWitnessError as error:
            await self.close()
            if self._disk is None or not self._disk.is_used:
                raise
            raise LogBehindWitnessError(
                f"{error.message} This replica started from a snapshot in "
                f"{self._settings.snapshots}; remove it if the log was replaced on purpose."
            ) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stops following, and waits for running decisions and writes."""
        await self._follower.close()
        if self._disk is not None:
            await self._disk.close()
        await asyncio.to_thread(self._thread.shutdown)

    def check_health(self) -> None:
        """Returns if the replica may answer.

        Raises:
            ErrataError: it contradicts the log, cannot apply it, lags, or gets no messages.
        """
        self._follower.check_health()

    async def route(
        self,
        query: RoutingQuery,
        *,
        at_seq: int | None,
        min_seq: int | None,
        timeout_seconds: float,
    ) -> tuple[RoutingSnapshot, list[Decision]]:
        """Decides on a batch.

        Args:
            query: the prompts.
            at_seq: decides as of exactly this position.
            min_seq: decides at this position or a later one; the latest if both are None.
            timeout_seconds: time to the caller's deadline.

        Returns:
            The state that decided, and a decision for each prompt.

        Raises:
            InvalidRequestError, LimitExceededError: the request is not valid.
            SeqTrimmedError: `at_seq` is older than the kept positions.
            ReplicaBehindError, SeqBeyondHeadError: the position was not reached.
        """
        check_request(query, at_seq, min_seq, self._settings.max_prompts)
        await failpoint_async("retrieval.route")
        await self._follower.reach(at_seq if at_seq is not None else min_seq, timeout_seconds)
        snapshot = self.latest if at_seq is None else self._history.as_of(at_seq)
        loop = asyncio.get_running_loop()
        with ROUTE_SECONDS.time():
            return snapshot, await loop.run_in_executor(self._thread, decide, snapshot, query)

    async def _prepare(self, entry: Entry) -> Change | None:
        if self._applier is None and isinstance(entry.payload, LaneConfigured):
            self._applier = self._new_applier(entry.payload.base_model_digest, self._gate)
        if self._applier is not None:
            return await prepare(self._applier, entry)
        trusted = self._gate.check(entry)
        return None if trusted is None else recorded(trusted)

    async def _apply(self, prepared: PreparedEntry) -> None:
        prepared.apply()
        await failpoint_async("retrieval.before_position")
        applier, before, position = self._applier, self.latest, prepared.position
        if applier is None or prepared.change is None:
            snapshot = replace(before, seq=position.seq, chain_digest=position.chain_digest)
        else:
            snapshot = _snapshot(applier, position)
        self._history.append(snapshot)
        has_lanes = applier is not None and bool(applier.lanes)
        if prepared.is_last and has_lanes and self._disk is not None:
            self._disk.write_if_due()

    async def _restore(self, disk: DiskSnapshots) -> None:
        """Moves to the position of a snapshot, if one is usable."""
        restored = await disk.restore(self._new_applier)
        if restored is None:
            return
        await failpoint_async("retrieval.snapshot.restored")
        self._applier, saved = restored
        self._follower.reader.fold = saved.fold
        self._history.restart(_snapshot(self._applier, saved.position))
        self._subscriber.start_from(saved.position, saved.log_id)

    def _take_snapshot(self) -> Callable[[], Snapshot]:
        assert self._applier is not None
        position = Position(self.latest.seq, self.latest.chain_digest)
        log_id, copy = self._subscriber.log_id, self._applier.capture()
        fold = self._follower.reader.fold.copy()
        return lambda: Snapshot(log_id, position, copy(), fold)

    def _whole_seq(self) -> int:
        """The position if nothing beyond it was read; 0 within a batch, when nothing is saved."""
        seq = self.latest.seq
        return seq if self._follower.reader.fold.seq == seq else 0

    def _new_disk_snapshots(self) -> DiskSnapshots | None:
        settings = self._settings
        if settings.snapshots is None:
            return None
        return DiskSnapshots(
            SnapshotFolder(settings.snapshots),
            settings.snapshot_every,
            current_seq=self._whole_seq,
            take=self._take_snapshot,
        )

    def _new_applier(self, base_model: str, gate: CommitGate | None = None) -> Applier:
        llm = KnownLLM(base_model, torch.device(self._settings.device))
        gate = gate or CommitGate.of(self._settings)
        return Applier(llm, self._artifacts, FaissIndices(), gate=gate)

    def _begin_thread(self) -> None:
        if self._settings.device == "cpu":
            torch.set_num_threads(self._settings.num_threads)


def _snapshot(applier: Applier, position: Position) -> RoutingSnapshot:
    counts = applier.num_edits_by_lane()
    note_index(counts)
    return RoutingSnapshot(
        position.seq, position.chain_digest, applier.digest(), applier.routing(), counts
    )
