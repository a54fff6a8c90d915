"""A retrieval replica: follows the log and decides which edits claim which prompts.

It holds no LLM. It also decides as of recent positions, because a worker asks as of the position
that its answer will report (P6), and workers are not all at the same position.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from errata.artifacts.source import ArtifactSource
from errata.editing.lane.swap import Change
from errata.editing.model.causal_lm import KnownLLM
from errata.indices.faiss_indices import FaissIndices
from errata.log.chain import Position
from errata.log.entries import Entry, LaneConfigured, SnapshotTaken
from errata.log.subscriber import Subscriber
from errata.platform.failpoints import failpoint_async
from errata.platform.metrics import ROUTE_SECONDS, note_index
from errata.platform.settings import RetrievalSettings
from errata.replica.applier import Applier
from errata.replica.apply import PreparedEntry, prepare
from errata.replica.commit_gate import CommitGate
from errata.replica.follower import Follower, Tolerance
from errata.replica.records import recorded
from errata.replica.snapshot import Snapshot
from errata.replica.snapshot_parts import load_snapshot
from errata.retrieval.deciding import Decision, RoutingQuery, check_request, decide
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
            SeqTrimmedError: the snapshot cannot be used, and the log was trimmed.
        """
        try:
            await self._follower.begin(self._load, self._restore)
            await self._follower.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stops following, and waits for running decisions."""
        await self._follower.close()
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

    async def _load(self, named: SnapshotTaken) -> Snapshot:
        applier = self._new_applier(named.base_model_digest)
        return await load_snapshot(
            self._artifacts, named, None, holds=applier.holds, with_memory=False
        )

    async def _restore(self, snapshot: Snapshot) -> None:
        """Moves to the position of a snapshot."""
        applier = self._new_applier(snapshot.manifest.base_model_digest)
        await asyncio.to_thread(applier.restore, snapshot)
        await failpoint_async("retrieval.snapshot.restored")
        self._applier = applier
        self._history.restart(_snapshot(applier, snapshot.position))

    def _new_applier(self, base_model: str, gate: CommitGate | None = None) -> Applier:
        llm = KnownLLM(base_model, torch.device(self._settings.device))
        gate = gate or CommitGate.of(self._settings)
        indices = FaissIndices(self._settings.index)
        return Applier(llm, self._artifacts, indices, gate=gate)

    def _begin_thread(self) -> None:
        if self._settings.device == "cpu":
            torch.set_num_threads(self._settings.num_threads)


def _snapshot(applier: Applier, position: Position) -> RoutingSnapshot:
    counts = applier.num_edits_by_lane()
    note_index(counts)
    return RoutingSnapshot(
        position.seq, position.chain_digest, applier.digest(), applier.routing(), counts
    )
