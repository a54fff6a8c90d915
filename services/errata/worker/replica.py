"""One replica: the model, an engine, and a subscriber that keeps it at the log's head.

Does not depend on Ray, so that tests and single-process programs can use it directly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from errata.artifacts.source import ArtifactSource
from errata.editing.model.causal_lm import CausalLM
from errata.engine.limits import EngineLimits
from errata.engine.sequence import Piece, ScoredContinuation, Version
from errata.engine.serving_state import ServingState
from errata.errors import UnavailableError
from errata.indices.faiss_indices import FaissIndices
from errata.log.chain import ORIGIN, Position
from errata.log.entries import SnapshotTaken
from errata.log.subscriber import Subscriber
from errata.platform.failpoints import failpoint, failpoint_async
from errata.platform.metrics import note_index
from errata.platform.settings import WorkerSettings
from errata.platform.tracing import span
from errata.replica.applier import Applier
from errata.replica.apply import PreparedEntry, prepare
from errata.replica.commit_gate import CommitGate
from errata.replica.follower import Follower, Tolerance
from errata.replica.snapshot import Snapshot
from errata.replica.snapshot_parts import load_snapshot
from errata.worker import admission
from errata.worker.canary_counts import CanaryCounter
from errata.worker.engines import engine_factory
from errata.worker.lane_router import LaneRouter
from errata.worker.retrieval_client import RetrievalClient

R = TypeVar("R")
_ADMITTING_THREADS = 2  # that many texts at once; further ones wait, and do not take memory


class Replica:
    """Follows the log and answers requests under its current position."""

    def __init__(
        self,
        name: str,
        model: CausalLM,
        artifacts: ArtifactSource,
        log_address: str,
        settings: WorkerSettings,
    ) -> None:
        """Prepares the replica; `start` makes it follow the log.

        Args:
            name: unique among replicas.
            model: holds its base weights; owned by this replica from now on.
            artifacts: source of the commits' tensors.
            log_address: of the edit log service.
            settings: engine and limits.

        Raises:
            InvalidRequestError: the engine that the settings name is not installed, or does not
                know its options.
            StartupError: the settings' trusted_keys_file cannot be used.
        """
        self.name = name
        self.model = model
        self._settings = settings
        self._artifacts = artifacts
        self._applier = Applier(
            model, artifacts, FaissIndices(settings.index), gate=CommitGate.of(settings)
        )
        version = Version(0, ORIGIN.chain_digest, self._applier.digest(), 0)
        self.engine = engine_factory(settings.engine)(
            model, ServingState(version), _limits(settings), settings.engine_options
        )
        self._admitting = ThreadPoolExecutor(_ADMITTING_THREADS, thread_name_prefix="admission")
        self._counter = CanaryCounter()
        self._retrieval = (
            RetrievalClient(settings.retrieval_address, settings.retrieval_timeout_seconds)
            if settings.retrieval_address
            else None
        )
        self._follower = Follower(
            name,
            "worker",
            Subscriber(log_address),
            log_address,
            Tolerance(settings.max_lag, settings.max_silence_seconds),
            prepare=partial(prepare, self._applier),
            apply=self._apply,
            current_position=lambda: self.engine.version,
            device_usage=self._applier.device_usage,
            canaries=lambda: self._counter.report(self._applier.canaries),
        )

    async def start(self) -> None:
        """Starts; returns once the replica has applied all entries up to the log's head.

        It begins behind the log's newest snapshot, if it can use that.

        Raises:
            LogUnavailableError: the log cannot be reached.
            BaseModelMismatchError, DataLossError: this replica cannot apply the log.
            SeqTrimmedError: the snapshot cannot be used, and the log was trimmed.
        """
        try:
            await self.engine.start()
            await self._follower.begin(self._load, self._restore)
            await self._follower.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Lets running requests finish for up to `drain_seconds`, then stops following the log."""
        await self.engine.drain(self._settings.drain_seconds)
        await self._follower.close()
        await self.engine.close()
        if self._retrieval is not None:
            self._retrieval.close()

    def check_health(self) -> None:
        """Returns if the replica can answer requests.

        Raises:
            ErrataError: it contradicts the log, cannot apply it, lags, or gets no messages.
        """
        self._follower.check_health()
        if not self.engine.alive:
            raise UnavailableError(f"the engine of {self.name} has stopped.")

    async def generate(
        self, asked: admission.GenerationInput, *, streaming: bool, timeout_seconds: float
    ) -> AsyncGenerator[Piece, None]:
        """Yields a continuation: piece by piece if `streaming`, otherwise as one piece.

        Raises:
            InvalidRequestError, LimitExceededError, QueueFullError: refused.
            ReplicaBehindError: `min_seq` was not reached by shortly before the deadline.
            SeqBeyondHeadError: the log itself has not reached `min_seq`.
            DeadlineExceededError: the deadline passed first.
        """
        request = await self._admitted(
            lambda seconds_left: admission.generation(
                self.model,
                asked,
                self._settings.max_new_tokens,
                streaming=streaming,
                timeout_seconds=seconds_left,
            ),
            timeout_seconds,
        )
        await self._follower.reach(asked.min_seq, timeout_seconds)
        await failpoint_async("worker.generate")
        reads, before = (request.reading, request.canary_key), self.engine.version.canaries
        pieces = self._counter.generation(self.engine.generate(request), reads, before)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def score(
        self, asked: admission.ScoringInput, *, timeout_seconds: float
    ) -> tuple[tuple[int, ...], ScoredContinuation]:
        """Token ids of the continuation, and their scores.

        Raises:
            As `generate`.
        """
        request = await self._admitted(
            lambda seconds_left: admission.scoring(self.model, asked, seconds_left),
            timeout_seconds,
        )
        await self._follower.reach(asked.min_seq, timeout_seconds)
        reads, before = (request.reading, request.canary_key), self.engine.version.canaries
        scored = await self._counter.score(self.engine.score(request), reads, before)
        return request.continuation_ids, scored

    async def _admitted(self, admit: Callable[[float], R], timeout_seconds: float) -> R:
        """Checks and tokenises a request in a thread: a long text must not hold others up.

        Args:
            admit: is given the seconds that are left until the deadline.
            timeout_seconds: until the caller's deadline.
        """
        deadline = time.monotonic() + timeout_seconds
        return await asyncio.get_running_loop().run_in_executor(
            self._admitting, lambda: admit(deadline - time.monotonic())
        )

    async def _load(self, named: SnapshotTaken) -> Snapshot:
        return await load_snapshot(
            self._artifacts,
            named,
            self.model.digest,
            holds=self._applier.holds,
            with_memory=False,
        )

    async def _restore(self, snapshot: Snapshot) -> None:
        """Moves to the position of a snapshot."""

        def change() -> ServingState:
            self._applier.restore(snapshot)
            return self._state_at(snapshot.position)

        await self.engine.change(change, alters_weights=True)

    async def _apply(self, prepared: PreparedEntry) -> None:
        def change() -> ServingState:
            prepared.apply()
            failpoint("worker.before_position")
            return self._state_at(prepared.position)

        entry, alters = prepared.entry, prepared.alters_weights
        if prepared.change is None or not entry.trace_parent or not self._follower.is_live:
            await self.engine.change(change, alters_weights=alters)
            return
        with span("apply", parent=entry.trace_parent, replica=self.name, seq=entry.seq):
            await self.engine.change(change, alters_weights=alters)

    def _state_at(self, position: Position) -> ServingState:
        applier = self._applier
        version = Version(
            position.seq,
            position.chain_digest,
            applier.digest(),
            applier.num_edits,
            applier.canaries,
        )
        attribution, table = self._applier.attribution(), self._applier.routing()
        note_index(self._applier.num_edits_by_lane())
        if table is None:
            return ServingState(version, attribution)
        retrieval = self._retrieval
        ask = table.claims if retrieval is None else partial(retrieval.claims, version.seq)
        return ServingState(version, attribution, LaneRouter(table, ask))


def _limits(settings: WorkerSettings) -> EngineLimits:
    return EngineLimits(
        max_rows=settings.max_batch_size,
        max_queue=settings.max_queue,
        max_context=settings.max_context,
        prefill_tokens=settings.prefill_tokens,
        weight_versions=settings.weight_versions,
        max_drain_seconds=settings.max_drain_seconds,
    )
