"""Keeps a replica at the log's head: follows, reports, waits for positions, leaves rotation.

Workers and retrieval replicas share it; each defines how an entry is applied.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import grpc
import structlog

from errata.editing.lane.swap import Change
from errata.errors import (
    DataLossError,
    ErrataError,
    ImpossibleEntryError,
    LogBehindWitnessError,
    LogUnavailableError,
    ReplicaBehindError,
    SeqBeyondHeadError,
)
from errata.log.canary_entries import CanaryComparison
from errata.log.chain import ChainedEntry, Position
from errata.log.entries import (
    EditsCommitted,
    EditsReverted,
    Entry,
    LaneCompacted,
    LaneModelCommitted,
    SnapshotTaken,
)
from errata.log.history import LogState
from errata.log.positions import MAX_RECENT, ReplicaReport
from errata.log.reader import EntryReader
from errata.log.remote import RemoteLog
from errata.log.subscriber import Subscriber
from errata.platform.deadlines import before_deadline
from errata.platform.failpoints import failpoint_async
from errata.platform.metrics import (
    APPLIED_SEQ,
    COMMIT_TO_APPLIED_SECONDS,
    KNOWN_HEAD_SEQ,
    REPLICA_HEALTHY,
)
from errata.platform.retry import until_available
from errata.platform.server import open_channel
from errata.replica.apply import PreparedEntry
from errata.replica.snapshot import Snapshot
from errata.replica.snapshot_start import begin

_log = structlog.get_logger(__name__)
_REPORT_SECONDS = 1.0
_REPAIR_SECONDS = 1.0


class ReplicaPosition(Protocol):
    """A replica's position in the log, and its state there."""

    @property
    def seq(self) -> int:
        """Last applied position."""

    @property
    def chain_digest(self) -> bytes:
        """H(seq)."""

    @property
    def state_digest(self) -> str:
        """SHA-256, hex, of what its lanes hold."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Limits beyond which a replica reports unhealthy.

    Attributes:
        max_lag: entries behind the head.
        max_silence_seconds: without a message from the log.
    """

    max_lag: int
    max_silence_seconds: float


class Follower:
    """Follows the log on behalf of one replica.

    Attributes:
        name: of the replica.
        reader: decodes and checks entries; its fold can be ahead of the replica's position.
        is_live: whether the first catch-up is over, so that entries arrive as they are appended.
    """

    def __init__(
        self,
        name: str,
        role: str,
        subscriber: Subscriber,
        log_address: str,
        tolerance: Tolerance,
        *,
        prepare: Callable[[Entry], Awaitable[Change | None]],
        apply: Callable[[PreparedEntry], Awaitable[None]],
        current_position: Callable[[], ReplicaPosition],
        device_usage: Callable[[], Mapping[str, Mapping[str, int]]],
        canaries: Callable[[], Mapping[str, CanaryComparison]] = dict,
    ) -> None:
        """Prepares the follower; `start` starts it.

        Args:
            name: of the replica, unique.
            role: such as "worker".
            subscriber: at the replica's position.
            log_address: of the edit log service, for reports.
            tolerance: limits for `check_health`.
            prepare: prepares an entry's effect; returns None if it has none.
            apply: applies a prepared entry and moves the position. It is called for each entry
                with an effect and for the last entry of each batch.
            current_position: of the replica; another object after each move.
            device_usage: by lane, sizes of what is on its device only while in use.
            canaries: what it counted for the open canaries.
        """
        self.name = name
        self._role = role
        self._subscriber = subscriber
        self._log_address = log_address
        self._tolerance = tolerance
        self._prepare = prepare
        self._apply = apply
        self._current_position = current_position
        self._device_usage, self._canaries = device_usage, canaries
        self._moved = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: ErrataError | None = None
        self._moves: list[tuple[int, str]] = []  # since the last report, with that one's own
        self.reader = EntryReader(self._voided_seqs)
        self.is_live = False

    async def begin(
        self,
        load: Callable[[SnapshotTaken], Awaitable[Snapshot]],
        restore: Callable[[Snapshot], Awaitable[None]],
    ) -> None:
        """Moves the replica behind the log's newest snapshot, if it is usable; see `begin`.

        Raises:
            SeqTrimmedError: as `snapshot_start.begin`.
        """
        APPLIED_SEQ.labels(self._role).set(self._current_position().seq)  # it can wait for long
        state = await until_available(self._log_state, "the log")
        snapshot = await begin(state, load, restore)
        if snapshot is not None:
            self.reader.begin(snapshot.fold, snapshot.named)
            self._subscriber.start_from(snapshot.position, state.log_id)

    async def start(self) -> None:
        """Starts; returns once the replica has applied all entries up to the log's head.

        Raises:
            LogUnavailableError: the log cannot be reached.
            BaseModelMismatchError, DataLossError: this replica cannot apply the log.
            LogBehindWitnessError: no entry names the snapshot from which the replica began.
        """
        self._note_move()
        self._tasks = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._report_loop()),
        ]
        async with self._moved:
            await self._moved.wait_for(lambda: self._failure is not None or self._caught_up())
        if self._failure is not None:
            raise self._failure
        self.reader.check_confirmed()
        self.is_live = True

    async def close(self) -> None:
        """Stops following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check_health(self) -> None:
        """Returns if the replica may answer.

        Raises:
            ErrataError: it contradicts the log, cannot apply it, lags, or gets no messages.
        """
        healthy = REPLICA_HEALTHY.labels(self._role)
        try:
            self._check_health()
        except ErrataError:
            healthy.set(0)
            raise
        healthy.set(1)

    def _check_health(self) -> None:
        if self._failure is not None:
            raise self._failure
        silence = self._subscriber.silence_seconds
        if silence > self._tolerance.max_silence_seconds:
            raise LogUnavailableError(
                f"{self.name} has had no message from the log for {silence:.0f} s."
            )
        applied, head = self._current_position().seq, self._subscriber.head_seq
        lag = head - applied
        if lag > self._tolerance.max_lag:
            raise ReplicaBehindError(
                f"{self.name} is {lag:,} entries behind; the limit is {self._tolerance.max_lag:,}.",
                applied_seq=applied,
                head_seq=head,
            )

    async def reach(self, min_seq: int | None, timeout_seconds: float) -> None:
        """Waits until the replica is at `min_seq` or later (P5).

        Raises:
            ReplicaBehindError: it did not get there before the deadline.
            SeqBeyondHeadError: the log itself does not reach `min_seq`.
        """
        if min_seq is None or self._current_position().seq >= min_seq:
            return
        asked = time.monotonic()

        def reached() -> bool:
            return self._current_position().seq >= min_seq

        def beyond() -> bool:
            fresh = self._subscriber.last_progress > asked
            return fresh and self._subscriber.head_seq < min_seq

        try:
            async with asyncio.timeout(before_deadline(timeout_seconds)), self._moved:
                await self._moved.wait_for(
                    lambda: self._failure is not None or reached() or beyond()
                )
        except TimeoutError:
            pass
        if reached():
            return
        if self._failure is not None:
            raise self._failure
        applied, head = self._current_position().seq, self._subscriber.head_seq
        if beyond():
            raise SeqBeyondHeadError(
                f"min_seq is {min_seq:,}, but the log ends at {head:,}; use a position from an "
                "earlier answer.",
                field="min_seq",
                min_seq=min_seq,
                head_seq=head,
            )
        raise ReplicaBehindError(
            f"{self.name} is at {applied:,} and did not reach min_seq {min_seq:,} in time; retry, "
            "or allow more time.",
            min_seq=min_seq,
            applied_seq=applied,
        )

    def _caught_up(self) -> bool:
        return (
            self._subscriber.connected and self._current_position().seq >= self._subscriber.head_seq
        )

    async def _follow(self) -> None:
        watch = asyncio.create_task(self._wake_waiters())
        try:
            async for batch in self._subscriber.batches():
                for stored in batch.entries:
                    await self._process(stored, is_last=stored is batch.entries[-1])
                    async with self._moved:
                        self._moved.notify_all()
        except ErrataError as error:
            await self._fail(error)
        except Exception as error:
            await self._fail(DataLossError(f"{self.name} cannot apply the log: {error}."))
            raise
        finally:
            watch.cancel()

    async def _process(self, stored: ChainedEntry, *, is_last: bool) -> None:
        entry = await self._read(stored)
        if entry is None:
            return  # the entry that voids it moves the position
        await failpoint_async("replica.before_prepare")
        change = await self._prepare(entry)
        if change is None and not is_last:
            return  # the position moves with the batch's next change
        position = Position(stored.seq, stored.chain_digest)
        await failpoint_async("replica.before_apply")
        await self._apply(PreparedEntry(entry, position, change, is_last))
        self._note_move()
        await failpoint_async("replica.after_apply")
        if is_last:
            self._observe_delay(entry)

    async def _read(self, stored: ChainedEntry) -> Entry | None:
        """The next entry; waits, out of rotation, while it can neither be applied nor skipped."""
        stopped: ImpossibleEntryError | None = None
        while True:
            try:
                entry = await self.reader.read(stored)
            except ImpossibleEntryError as error:
                if stopped is None:
                    await self._fail(error)
                stopped = error
                await asyncio.sleep(_REPAIR_SECONDS)
                continue
            if stopped is not None:
                _log.info("the log was repaired", replica=self.name, seq=stored.seq)
                if isinstance(self._failure, ImpossibleEntryError):
                    self._failure = None
            return entry

    def _note_move(self) -> None:
        position = self._current_position()
        self._moves.append((position.seq, position.state_digest))
        del self._moves[:-MAX_RECENT]

    async def _voided_seqs(self) -> Collection[int]:
        return (await self._log_state()).voided

    async def _log_state(self) -> LogState:
        async with open_channel(self._log_address) as channel:
            return await RemoteLog(channel).state()

    def _observe_delay(self, entry: Entry) -> None:
        match entry.payload:
            case EditsCommitted() | EditsReverted() | LaneModelCommitted() | LaneCompacted():
                if self.is_live:
                    delay = time.time() - entry.append_time.timestamp()
                    COMMIT_TO_APPLIED_SECONDS.observe(max(0.0, delay))

    async def _wake_waiters(self) -> None:
        """Progress messages move no position, but show whether the log reaches a min_seq."""
        while True:
            await asyncio.sleep(0.2)
            async with self._moved:
                self._moved.notify_all()

    async def _report_loop(self) -> None:
        async with open_channel(self._log_address) as channel:
            log = RemoteLog(channel)
            while True:
                reported = self._current_position()
                APPLIED_SEQ.labels(self._role).set(reported.seq)
                KNOWN_HEAD_SEQ.labels(self._role).set(self._subscriber.head_seq)
                await self._report(log, reported)
                await self._wait_for_move(reported, _REPORT_SECONDS)

    async def _wait_for_move(self, since: ReplicaPosition, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(lambda: self._current_position() is not since)
        except TimeoutError:
            pass

    async def _report(self, log: RemoteLog, position: ReplicaPosition) -> None:
        recent = tuple(move for move in self._moves if move[0] <= position.seq)
        await failpoint_async("replica.before_report")
        report = ReplicaReport(
            replica=self.name,
            position=Position(position.seq, position.chain_digest),
            state_digest=position.state_digest,
            role=self._role,
            device_usage=self._device_usage(),
            recent=recent,
            canaries=self._canaries(),
        )
        try:
            agrees = await log.report(report, _REPORT_SECONDS)
        except grpc.aio.AioRpcError as error:
            _log.warning("the log did not accept the report", code=error.code().name)
            return
        self._moves = [move for move in self._moves if move[0] >= position.seq]
        if not agrees:
            await self._fail(
                LogBehindWitnessError(
                    f"{self.name} is at {position.seq} with another history than the log's.",
                    applied_seq=position.seq,
                )
            )

    async def _fail(self, error: ErrataError) -> None:
        """Leaves rotation: health checks and waiting requests fail with `error`."""
        _log.error("replica leaves rotation", replica=self.name, reason=error.message)
        REPLICA_HEALTHY.labels(self._role).set(0)
        self._failure = error
        async with self._moved:
            self._moved.notify_all()
