"""One replica: the model, an engine, and a subscriber that keeps it at the log's head.

Knows nothing of Ray, so that tests and single-process programs can hold one directly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import grpc
import structlog

from errata.artifacts.source import ArtifactSource
from errata.editing.causal_lm import CausalLM
from errata.engine.engine import Engine, EngineLimits
from errata.engine.sequence import Edition, Piece, Route, ScoredContinuation, Version
from errata.errors import (
    DataLossError,
    ErrataError,
    LogBehindWitnessError,
    LogUnavailableError,
    ReplicaBehindError,
    SeqBeyondHeadError,
    UnavailableError,
)
from errata.log.chain import ORIGIN
from errata.log.chain import Entry as LogEntry
from errata.log.subscriber import Subscriber
from errata.platform.deadlines import before_deadline
from errata.platform.retry import until_available
from errata.platform.server import open_channel
from errata.platform.settings import WorkerSettings
from errata.replica.applier import Applier
from errata.replica.convert import decode
from errata.retrieval.index import FaissIndices
from errata.worker import admission
from errata_client._gen.errata.v1 import edit_log_pb2, edit_log_pb2_grpc, inference_pb2

_log = structlog.get_logger(__name__)
_REPORT_SECONDS = 1.0


class Replica:
    """Follows the log and answers under one position at a time."""

    def __init__(
        self,
        name: str,
        model: CausalLM,
        artifacts: ArtifactSource,
        log_address: str,
        settings: WorkerSettings,
    ) -> None:
        """Prepares the replica; `start` makes it follow.

        Args:
            name: unique among replicas.
            model: holds its base weights; owned by this replica from now on.
            artifacts: where commits' tensors come from.
            log_address: of the edit log service.
            settings: limits.
        """
        self.name = name
        self.model = model
        self._settings = settings
        self._applier = Applier(model, artifacts, FaissIndices())
        version = Version(0, ORIGIN.chain_digest, self._applier.digest(), 0)
        self.engine = Engine(model, Edition(version), _limits(settings))
        self._log_address = log_address
        self._subscriber = Subscriber(log_address)
        self._moved = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: ErrataError | None = None

    async def start(self) -> None:
        """Starts, and returns once the replica has applied all that the log held.

        Raises:
            LogUnavailableError: the log cannot be reached.
            BaseModelMismatchError, DataLossError: the log cannot be applied here.
        """
        self.engine.start()
        self._tasks = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._report_for_ever()),
        ]
        async with self._moved:
            await self._moved.wait_for(lambda: self._failure is not None or self._caught_up())
        if self._failure is not None:
            await self.close()
            raise self._failure

    async def close(self) -> None:
        """Ends what runs, within the settings' grace, then stops following."""
        await self.engine.drain(self._settings.drain_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.engine.close)

    def check_health(self) -> None:
        """Returns if the replica may answer.

        Raises:
            ErrataError: it contradicts the log, cannot apply it, lags, or does not hear of it.
        """
        if self._failure is not None:
            raise self._failure
        if not self.engine.alive:
            raise UnavailableError(f"the engine of {self.name} has ended.")
        silence = self._subscriber.silence_seconds
        if silence > self._settings.max_silence_seconds:
            raise LogUnavailableError(f"{self.name} has not heard of the log for {silence:.0f} s.")
        lag = self._subscriber.head_seq - self.engine.version.seq
        if lag > self._settings.max_lag:
            raise ReplicaBehindError(
                f"{self.name} is {lag:,} entries behind; the limit is {self._settings.max_lag:,}.",
                applied_seq=self.engine.version.seq,
                head_seq=self._subscriber.head_seq,
            )

    async def generate(
        self, message: admission.Message, *, streaming: bool, timeout_seconds: float
    ) -> AsyncGenerator[Piece, None]:
        """Yields a continuation: as it is made if `streaming`, else as one piece.

        Raises:
            InvalidRequestError, LimitExceededError, QueueFullError: refused.
            ReplicaBehindError: `min_seq` is not reached just before the deadline.
            SeqBeyondHeadError: the log itself has not reached `min_seq`.
            DeadlineExceededError: the deadline passed first.
        """
        request = admission.generation(
            self.model,
            message,
            self._settings.max_new_tokens,
            streaming=streaming,
            timeout_seconds=timeout_seconds,
        )
        await self._reach(_min_seq(message), timeout_seconds)
        async with aclosing(self.engine.generate(request)) as pieces:
            async for piece in pieces:
                yield piece

    async def score(
        self, message: inference_pb2.ScoreRequest, *, timeout_seconds: float
    ) -> tuple[tuple[int, ...], ScoredContinuation]:
        """Token ids of the continuation and what the model makes of them.

        Raises:
            As `generate`.
        """
        request = admission.scoring(
            self.model, message.prompt, message.continuation, timeout_seconds
        )
        await self._reach(_min_seq(message), timeout_seconds)
        return request.continuation_ids, await self.engine.score(request)

    async def _reach(self, min_seq: int | None, timeout_seconds: float) -> None:
        """Waits until the model stands at `min_seq` or later (P5)."""
        if min_seq is None or self.engine.version.seq >= min_seq:
            return
        asked = time.monotonic()

        def reached() -> bool:
            return self.engine.version.seq >= min_seq

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
        applied, head = self.engine.version.seq, self._subscriber.head_seq
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
        heard = self._subscriber.connected
        return heard and self.engine.version.seq >= self._subscriber.head_seq

    async def _follow(self) -> None:
        watch = asyncio.create_task(self._wake_waiters())
        try:
            async for batch in self._subscriber.batches():
                for entry in batch.entries:
                    await self._apply(entry, last=entry is batch.entries[-1])
        except ErrataError as error:
            await self._fail(error)
        except Exception as error:
            await self._fail(DataLossError(f"{self.name} cannot apply the log: {error}."))
            raise
        finally:
            watch.cancel()

    async def _wake_waiters(self) -> None:
        """Progress without entries moves no position, but settles whether min_seq can exist."""
        while True:
            await asyncio.sleep(0.2)
            async with self._moved:
                self._moved.notify_all()

    async def _apply(self, entry: LogEntry, *, last: bool) -> None:
        decoded = decode(entry)
        # A log or store that is away for a while is no reason to leave rotation; lag is.
        swap = await until_available(lambda: self._applier.prepare(decoded), "artifacts")
        if swap is None and not last:
            return  # the position moves with the batch's next change

        def change() -> Edition:
            if swap is not None:
                swap()
            version = Version(
                entry.seq, entry.chain_digest, self._applier.digest(), self._applier.num_edits
            )
            return Edition(version, self._applier.attribution(), self._route())

        alters = swap is not None and self._applier.alters_weights(decoded)
        await self.engine.change(change, alters_weights=alters)
        async with self._moved:
            self._moved.notify_all()

    def _route(self) -> Route | None:
        plans = self._applier.route()
        if plans is None:
            return None
        return lambda requests: plans([request.prompt for request in requests])

    async def _report_for_ever(self) -> None:
        async with open_channel(self._log_address) as channel:
            stub = cast(
                "edit_log_pb2_grpc.EditLogServiceAsyncStub",
                edit_log_pb2_grpc.EditLogServiceStub(channel),
            )
            while True:
                reported = self.engine.version
                await self._report(stub, reported)
                await self._wait_for_move(reported, _REPORT_SECONDS)

    async def _wait_for_move(self, since: Version, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(lambda: self.engine.version is not since)
        except TimeoutError:
            pass

    async def _report(
        self, stub: edit_log_pb2_grpc.EditLogServiceAsyncStub, version: Version
    ) -> None:
        position = edit_log_pb2.ReplicaPosition(
            replica=self.name,
            role="worker",
            applied_seq=version.seq,
            chain_digest=version.chain_digest,
            state_digest=version.state_digest,
        )
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
                    f"{self.name} stands at {version.seq} with another history than the log's.",
                    applied_seq=version.seq,
                )
            )

    async def _fail(self, error: ErrataError) -> None:
        """Leaves rotation: health fails, and waiting requests learn why."""
        _log.error("replica leaves rotation", replica=self.name, reason=error.message)
        self._failure = error
        async with self._moved:
            self._moved.notify_all()


def _limits(settings: WorkerSettings) -> EngineLimits:
    return EngineLimits(
        max_rows=settings.max_batch_size,
        max_queue=settings.max_queue,
        max_context=settings.max_context,
        prefill_tokens=settings.prefill_tokens,
        weight_versions=settings.weight_versions,
        max_drain_seconds=settings.max_drain_seconds,
    )


def _min_seq(message: admission.Message | inference_pb2.ScoreRequest) -> int | None:
    return message.min_seq if message.HasField("min_seq") else None
