"""Keeps a replica at the log's head: follows, reports, waits for positions, leaves rotation.

Workers and the retrieval service share it; what an entry does is theirs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import grpc
import structlog

from errata.errors import (
    DataLossError,
    ErrataError,
    LogBehindWitnessError,
    LogUnavailableError,
    ReplicaBehindError,
    SeqBeyondHeadError,
)
from errata.log.chain import Entry as LogEntry
from errata.log.convert import decode_payload
from errata.log.subscriber import Subscriber
from errata.platform.deadlines import before_deadline
from errata.platform.metrics import (
    APPLIED_SEQ,
    COMMIT_TO_APPLIED_SECONDS,
    KNOWN_HEAD_SEQ,
    REPLICA_HEALTHY,
)
from errata.platform.server import open_channel
from errata_client._gen.errata.v1 import edit_log_pb2, edit_log_pb2_grpc

_log = structlog.get_logger(__name__)
_REPORT_SECONDS = 1.0
_COMMITS = frozenset(
    {"edits_committed", "edits_reverted", "lane_model_committed", "lane_compacted"}
)


class Standing(Protocol):
    """Where a replica stands."""

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
    """How far a replica may be off before it reports unhealthy.

    Attributes:
        max_lag: entries behind the head.
        max_silence_seconds: without a word from the log.
    """

    max_lag: int
    max_silence_seconds: float


class Follower:
    """Follows the log on behalf of one replica."""

    def __init__(
        self,
        name: str,
        role: str,
        subscriber: Subscriber,
        log_address: str,
        tolerance: Tolerance,
        *,
        apply: Callable[[LogEntry, bool], Awaitable[None]],
        stands: Callable[[], Standing],
        resident: Callable[[], Mapping[str, Mapping[str, int]]],
    ) -> None:
        """Prepares; `start` follows.

        Args:
            name: of the replica, unique among all.
            role: such as worker.
            subscriber: stands where the replica stands.
            log_address: of the edit log service, for reports.
            tolerance: limits of health.
            apply: puts an entry into effect; told whether more are at hand (False) or not (True).
            stands: where the replica stands now.
            resident: sizes, by lane, of what is on its device only while it is used.
        """
        self.name = name
        self._role = role
        self._subscriber = subscriber
        self._log_address = log_address
        self._tolerance = tolerance
        self._apply = apply
        self._stands = stands
        self._resident = resident
        self._moved = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: ErrataError | None = None
        self.is_live = False  # caught up once: what comes now was appended just now

    async def start(self) -> None:
        """Starts, and returns once the replica has applied all that the log held.

        Raises:
            LogUnavailableError: the log cannot be reached.
            BaseModelMismatchError, DataLossError: the log cannot be applied here.
        """
        self._tasks = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._report_for_ever()),
        ]
        async with self._moved:
            await self._moved.wait_for(lambda: self._failure is not None or self._caught_up())
        if self._failure is not None:
            raise self._failure
        self.is_live = True

    async def close(self) -> None:
        """Stops following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check_health(self) -> None:
        """Returns if the replica may answer.

        Raises:
            ErrataError: it contradicts the log, cannot apply it, lags, or does not hear of it.
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
            raise LogUnavailableError(f"{self.name} has not heard of the log for {silence:.0f} s.")
        applied, head = self._stands().seq, self._subscriber.head_seq
        lag = head - applied
        if lag > self._tolerance.max_lag:
            raise ReplicaBehindError(
                f"{self.name} is {lag:,} entries behind; the limit is {self._tolerance.max_lag:,}.",
                applied_seq=applied,
                head_seq=head,
            )

    async def reach(self, min_seq: int | None, timeout_seconds: float) -> None:
        """Waits until the replica stands at `min_seq` or later (P5).

        Raises:
            ReplicaBehindError: not reached just before the deadline.
            SeqBeyondHeadError: the log itself has not reached it.
        """
        if min_seq is None or self._stands().seq >= min_seq:
            return
        asked = time.monotonic()

        def reached() -> bool:
            return self._stands().seq >= min_seq

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
        applied, head = self._stands().seq, self._subscriber.head_seq
        if beyond():
            raise SeqBeyondHeadError(
                f"min_seq is {min_seq:,}, but the log ends at {head:,}; ask with a position that "
                "an answer gave.",
                field="min_seq",
                min_seq=min_seq,
                head_seq=head,
            )
        raise ReplicaBehindError(
            f"{self.name} stands at {applied:,} and did not reach min_seq {min_seq:,} in time; "
            "try again, or allow more time.",
            min_seq=min_seq,
            applied_seq=applied,
        )

    def _caught_up(self) -> bool:
        return self._subscriber.connected and self._stands().seq >= self._subscriber.head_seq

    async def _follow(self) -> None:
        watch = asyncio.create_task(self._wake_waiters())
        try:
            async for batch in self._subscriber.batches():
                for entry in batch.entries:
                    last = entry is batch.entries[-1]
                    await self._apply(entry, last)
                    if last:
                        self._note(entry)
                    async with self._moved:
                        self._moved.notify_all()
        except ErrataError as error:
            await self._fail(error)
        except Exception as error:
            await self._fail(DataLossError(f"{self.name} cannot apply the log: {error}."))
            raise
        finally:
            watch.cancel()

    def _note(self, entry: LogEntry) -> None:
        payload = decode_payload(entry)
        if self.is_live and payload.WhichOneof("kind") in _COMMITS:
            appended = payload.append_time.ToNanoseconds() / 1e9
            COMMIT_TO_APPLIED_SECONDS.observe(max(0.0, time.time() - appended))

    async def _wake_waiters(self) -> None:
        """Progress without entries moves no position, but settles whether min_seq can exist."""
        while True:
            await asyncio.sleep(0.2)
            async with self._moved:
                self._moved.notify_all()

    async def _report_for_ever(self) -> None:
        async with open_channel(self._log_address) as channel:
            stub = cast(
                "edit_log_pb2_grpc.EditLogServiceAsyncStub",
                edit_log_pb2_grpc.EditLogServiceStub(channel),
            )
            while True:
                reported = self._stands()
                APPLIED_SEQ.labels(self._role).set(reported.seq)
                KNOWN_HEAD_SEQ.labels(self._role).set(self._subscriber.head_seq)
                await self._report(stub, reported)
                await self._wait_for_move(reported, _REPORT_SECONDS)

    async def _wait_for_move(self, since: Standing, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(lambda: self._stands() is not since)
        except TimeoutError:
            pass

    async def _report(
        self, stub: edit_log_pb2_grpc.EditLogServiceAsyncStub, standing: Standing
    ) -> None:
        position = edit_log_pb2.ReplicaPosition(
            replica=self.name,
            role=self._role,
            applied_seq=standing.seq,
            chain_digest=standing.chain_digest,
            state_digest=standing.state_digest,
        )
        for lane, sizes in self._resident().items():
            position.resident[lane].values.update(sizes)
        try:
            response = await stub.ReportPosition(
                edit_log_pb2.ReportPositionRequest(position=position), timeout=_REPORT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            _log.warning("the log did not take the report", code=error.code().name)
            return
        if not response.agrees:
            await self._fail(
                LogBehindWitnessError(
                    f"{self.name} stands at {standing.seq} with another history than the log's.",
                    applied_seq=standing.seq,
                )
            )

    async def _fail(self, error: ErrataError) -> None:
        """Leaves rotation: health fails, and waiting requests learn why."""
        _log.error("replica leaves rotation", replica=self.name, reason=error.message)
        REPLICA_HEALTHY.labels(self._role).set(0)
        self._failure = error
        async with self._moved:
            self._moved.notify_all()
