"""One retrieval replica: follows the log and decides, as of a position, which edits claim what.

It holds no LLM. Decisions of the last positions stay possible, because a worker asks as of the
position that its answer will report (P6), and workers are not all at the same one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog
import torch
from torch import Tensor

from errata.artifacts.source import ArtifactSource
from errata.editing.lane.contract import Claim
from errata.editing.model.causal_lm import KnownLLM
from errata.errors import (
    ErrataError,
    InvalidRequestError,
    LimitExceededError,
    LogBehindWitnessError,
    SeqTrimmedError,
)
from errata.indices.faiss_indices import FaissIndices
from errata.log.chain import ORIGIN, Position
from errata.log.chain import Entry as LogEntry
from errata.log.entries import LaneConfigured
from errata.log.payload_convert import decode
from errata.log.subscriber import Subscriber
from errata.platform.metrics import ROUTE_SECONDS, note_index
from errata.platform.retry import until_available
from errata.platform.settings import RetrievalSettings
from errata.replica.applier import Applier
from errata.replica.follower import Follower, Tolerance
from errata.replica.routing_table import RoutingTable
from errata.replica.snapshot import Fold, Snapshot, SnapshotFolder

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class Moment:
    """The replica at one position of the log.

    Attributes:
        seq: the position.
        chain_digest: H(seq), 32 bytes.
        state_digest: SHA-256, hex, of what the lanes that route held.
        routing: None while no edit could claim anything.
        num_edits: in force, by lane that routes.
    """

    seq: int
    chain_digest: bytes
    state_digest: str
    routing: RoutingTable | None
    num_edits: dict[str, int]


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """A batch that is asked about.

    Attributes:
        prompts: at least one.
        vectors: (n, width) fp32 by lane, for lanes that decide by what the LLM made.
        lanes: that shall decide; all if empty.
    """

    prompts: Sequence[str]
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    lanes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided on one prompt.

    Attributes:
        claims: lane → what it decided.
        winner: the newest edit of those that claim the prompt; empty if none does.
    """

    claims: dict[str, Claim]
    winner: str


class RetrievalReplica:
    """Follows the log; decides on batches of prompts, one batch at a time."""

    def __init__(
        self, name: str, artifacts: ArtifactSource, log_address: str, settings: RetrievalSettings
    ) -> None:
        """Prepares; `start` follows.

        Args:
            name: unique among replicas.
            artifacts: where commits' tensors come from.
            log_address: of the edit log service.
            settings: limits.
        """
        self.name = name
        self._artifacts = artifacts
        self._settings = settings
        self._log_address = log_address
        self._applier: Applier | None = None  # the first lane says which LLM the log is about
        self._snapshots = SnapshotFolder(settings.snapshots) if settings.snapshots else None
        self._last_snapshot_seq = 0
        self._saving: asyncio.Task[None] | None = None
        origin = Moment(0, ORIGIN.chain_digest, "", None, {})
        self._moments: deque[Moment] = deque([origin], maxlen=settings.history)
        # Encoder and indices are used by one thread at a time; the loop stays free to follow.
        self._thread = ThreadPoolExecutor(1, "errata-routing", self._begin_thread)
        self._subscriber = Subscriber(log_address)
        self._follower = self._new_follower()

    @property
    def latest(self) -> Moment:
        """Where the replica stands."""
        return self._moments[-1]

    @property
    def floor_seq(self) -> int:
        """First position as of which it can still be asked."""
        return self._moments[0].seq

    async def start(self) -> None:
        """Starts from the newest snapshot, if there is any, and follows the log to its head.

        Raises:
            LogUnavailableError: the log cannot be reached.
            BaseModelMismatchError, DataLossError: the log cannot be applied here.
            LogBehindWitnessError: the snapshot is of another history than the log's.
        """
        try:
            if self._snapshots is not None:
                await self._start_from(self._snapshots)
            await self._follower.start()
        except LogBehindWitnessError as error:
            await self.close()
            if not self._last_snapshot_seq:
                raise
            raise LogBehindWitnessError(
                f"{error.message} This replica started from a snapshot in "
                f"{self._settings.snapshots}; remove it if the log was replaced on purpose."
            ) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stops following; running decisions end first."""
        await self._follower.close()
        while self._saving is not None:
            await self._saving
        await asyncio.to_thread(self._thread.shutdown)

    def check_health(self) -> None:
        """Returns if the replica may answer.

        Raises:
            ErrataError: it contradicts the log, cannot apply it, lags, or does not hear of it.
        """
        self._follower.check_health()

    async def route(
        self,
        question: Question,
        *,
        at_seq: int | None,
        min_seq: int | None,
        timeout_seconds: float,
    ) -> tuple[Moment, list[Decision]]:
        """Decides on a batch.

        Args:
            question: what is asked.
            at_seq: as of exactly this position.
            min_seq: or at this position or a later one; the latest if both are None.
            timeout_seconds: until the caller's deadline.

        Returns:
            As of when, and a decision for each prompt.

        Raises:
            InvalidRequestError, LimitExceededError: refused.
            SeqTrimmedError: `at_seq` is older than what the replica keeps.
            ReplicaBehindError, SeqBeyondHeadError: the position was not reached.
        """
        _check(question.prompts, at_seq, min_seq, self._settings.max_prompts)
        await self._follower.reach(at_seq if at_seq is not None else min_seq, timeout_seconds)
        moment = self.latest if at_seq is None else self._as_of(at_seq)
        loop = asyncio.get_running_loop()
        with ROUTE_SECONDS.time():
            return moment, await loop.run_in_executor(self._thread, _decide, moment, question)

    def _as_of(self, seq: int) -> Moment:
        found = next((m for m in reversed(self._moments) if m.seq <= seq), None)
        if found is None:
            raise SeqTrimmedError(
                f"{self.name} keeps positions from {self.floor_seq:,} on and was asked as of "
                f"{seq:,}; ask as of a later one.",
                field="at_seq",
                at_seq=seq,
                floor_seq=self.floor_seq,
            )
        return found

    async def _apply(self, entry: LogEntry, last: bool) -> None:
        decoded = decode(entry)
        if self._applier is None and isinstance(decoded.kind, LaneConfigured):
            self._applier = self._new_applier(decoded.kind.base_model_digest)
        applier = self._applier
        swap = None
        if applier is not None:
            swap = await until_available(lambda: applier.prepare(decoded), "artifacts")
        if swap is None and not last:
            return  # the position moves with the batch's next change
        if swap is not None:
            swap()
        self._moments.append(self._moment(entry, changed=swap is not None))
        if last:
            self._save_if_due()

    def _moment(self, entry: LogEntry, *, changed: bool) -> Moment:
        before, applier = self.latest, self._applier
        if not changed or applier is None:
            return Moment(
                entry.seq,
                entry.chain_digest,
                before.state_digest,
                before.routing,
                before.num_edits,
            )
        counts = applier.num_edits_by_lane()
        note_index(counts)
        return Moment(entry.seq, entry.chain_digest, applier.digest(), applier.routing(), counts)

    def _new_applier(self, base_model: str) -> Applier:
        llm = KnownLLM(base_model, torch.device(self._settings.device))
        return Applier(llm, self._artifacts, FaissIndices())

    def _new_follower(self) -> Follower:
        return Follower(
            self.name,
            "retrieval",
            self._subscriber,
            self._log_address,
            Tolerance(self._settings.max_lag, self._settings.max_silence_seconds),
            apply=self._apply,
            stands=lambda: self.latest,
            resident=dict,
        )

    async def _start_from(self, folder: SnapshotFolder) -> None:
        """Goes to where a snapshot stands; to the log's beginning if it cannot be used."""
        snapshot = await asyncio.to_thread(folder.newest)
        if snapshot is None or not snapshot.fold.lanes:
            return
        fold, position = snapshot.fold, snapshot.position
        applier = self._new_applier(fold.lanes[0][0].base_model_digest)
        try:
            await until_available(lambda: applier.restore(fold, position.seq), "artifacts")
        except ErrataError as error:
            _log.warning("a snapshot was left aside", seq=position.seq, reason=error.message)
            return
        self._applier, self._last_snapshot_seq = applier, position.seq
        routing, counts = applier.routing(), applier.num_edits_by_lane()
        note_index(counts)
        stands = Moment(position.seq, position.chain_digest, fold.state_digest, routing, counts)
        self._moments = deque([stands], maxlen=self._settings.history)
        self._subscriber = Subscriber(self._log_address, position, log_id=snapshot.log_id)
        self._follower = self._new_follower()

    def _save_if_due(self) -> None:
        """Writes a snapshot beside the following; one that is being written goes first."""
        folder, applier, now = self._snapshots, self._applier, self.latest
        is_due = now.seq >= self._last_snapshot_seq + self._settings.snapshot_every
        is_busy = self._saving is not None
        if folder is None or applier is None or not applier.lanes or is_busy or not is_due:
            return
        self._last_snapshot_seq = now.seq
        position, log_id, fold = (
            Position(now.seq, now.chain_digest),
            self._subscriber.log_id,
            applier.fold(),
        )
        self._saving = asyncio.create_task(self._save(folder, log_id, position, fold))

    async def _save(
        self, folder: SnapshotFolder, log_id: str, position: Position, fold: Callable[[], Fold]
    ) -> None:
        try:
            await asyncio.to_thread(lambda: folder.save(Snapshot(log_id, position, fold())))
        except OSError as error:
            _log.warning("no snapshot could be written", folder=str(folder.path), reason=str(error))
        finally:
            self._saving = None
        self._save_if_due()  # for what came meanwhile, and may have been the last entry for long

    def _begin_thread(self) -> None:
        if self._settings.device == "cpu":
            torch.set_num_threads(self._settings.num_threads)


def _decide(moment: Moment, question: Question) -> list[Decision]:
    routing = moment.routing
    if routing is None:
        return [Decision({}, "")] * len(question.prompts)
    claims = routing.claims(question.prompts, question.vectors, question.lanes or None)
    return [Decision(row, routing.winner(row)) for row in claims]


def _check(
    prompts: Sequence[str], at_seq: int | None, min_seq: int | None, max_prompts: int
) -> None:
    if not prompts:
        raise InvalidRequestError("the request has no prompt; give one.", field="prompts")
    if len(prompts) > max_prompts:
        raise LimitExceededError(
            f"the request has {len(prompts):,} prompts; the limit is {max_prompts:,}. Split it.",
            field="prompts",
            limit=max_prompts,
        )
    if at_seq is not None and min_seq is not None:
        raise InvalidRequestError("give at_seq or min_seq, not both.", field="at_seq")
    for index, prompt in enumerate(prompts):
        if not prompt.strip():
            raise InvalidRequestError(
                f"prompts[{index}] is empty; fill it in.", field=f"prompts[{index}]"
            )
