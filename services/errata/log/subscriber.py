"""Delivers verified entries in order, across any broken connection; every replica uses it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import grpc
import structlog

from errata.errors import QueueFullError, UnavailableError
from errata.log.chain import ORIGIN, ChainedEntry, Position, verify_run
from errata.log.delivery import Delivery
from errata.log.remote import RemoteLog
from errata.platform.failpoints import failpoint_async
from errata.platform.rpc_errors import service_error
from errata.platform.server import open_channel

SILENCE_SECONDS = 3.0
_FIRST_DELAY_SECONDS = 0.05
_MAX_DELAY_SECONDS = 2.0
_MAX_AHEAD = 4  # batches; at 500 entries each, more than the lag of a healthy replica

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Verified entries that continue the batch before.

    Attributes:
        entries: at least one, in order.
        position: of a replica that has applied them.
    """

    entries: tuple[ChainedEntry, ...]
    position: Position


class Subscriber:
    """Follows the log from a position.

    Attributes:
        position: of the last consumed batch; a batch is consumed once the next is requested.
        head_seq: the last known head of the log; 0 before the first message.
        log_id: the log's identity; empty before the first message.
        last_progress: `time.monotonic()` of the last message; at first, of the construction.
        connected: whether the current connection has delivered a message.
    """

    def __init__(
        self,
        dial: str | Callable[[], grpc.aio.Channel],
        position: Position = ORIGIN,
        *,
        log_id: str = "",
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """Connects when `batches` is iterated.

        Args:
            dial: the log service's address, or a function that opens a new channel to it, with a
                local subchannel pool. Only silence reveals a dead connection, and only a new
                connection replaces it, so each attempt opens and closes its own channel.
            position: the last applied entry, with its digest; batches start after it.
            log_id: the log that `position` belongs to; empty accepts the log that answers.
            silence_seconds: time without a message after which the connection counts as dead;
                the service sends progress every second.
        """
        self._dial = dial
        self._silence = silence_seconds
        self.position = position
        self.head_seq = 0
        self.log_id = log_id
        self.last_progress = time.monotonic()
        self.connected = False
        self._failures = 0
        self._is_ahead = False

    @property
    def silence_seconds(self) -> float:
        """Time since the last message; 0 while received batches wait for the consumer."""
        return 0.0 if self._is_ahead else time.monotonic() - self.last_progress

    def start_from(self, position: Position, log_id: str) -> None:
        """Sets the position and log id; call it before iterating `batches`."""
        self.position, self.log_id = position, log_id

    def another(self) -> Subscriber:
        """A subscriber of the same log that starts before its first entry."""
        return Subscriber(self._dial, log_id=self.log_id, silence_seconds=self._silence)

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Yields batches indefinitely; wrap it in `contextlib.aclosing` to disconnect at once.

        It reads a few batches ahead of the consumer, so that head and silence stay correct
        however long a batch takes to apply.

        Raises:
            LogBehindWitnessError: the log contradicts itself or `position`, or is another log.
                No entry of the message was yielded; the replica must leave rotation.
            SeqTrimmedError: the log no longer has the next entry; start from a snapshot.
            SeqBeyondHeadError: the log ends before `position`.
            ErrataError: another error that a retry cannot cure, such as missing permission.
        """
        while True:
            channel = self._open()
            ahead: asyncio.Queue[Batch | None] = asyncio.Queue(_MAX_AHEAD)
            reading = asyncio.create_task(self._read(channel, ahead))
            try:
                while (batch := await ahead.get()) is not None:
                    yield batch
                    self.position = batch.position
                await reading
                reason = "the log service ended the stream"
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                reason = _retryable(error)
            finally:
                self.connected = self._is_ahead = False
                reading.cancel()
                while not ahead.empty():
                    ahead.get_nowait()  # makes room for the reader's final None
                await asyncio.gather(reading, return_exceptions=True)
                await channel.close()
            _log.info("resubscribing", reason=reason, from_seq=self.position.seq + 1)
            await asyncio.sleep(self._next_delay())

    def _open(self) -> grpc.aio.Channel:
        return open_channel(self._dial) if isinstance(self._dial, str) else self._dial()

    async def _read(self, channel: grpc.aio.Channel, ahead: asyncio.Queue[Batch | None]) -> None:
        """Puts verified batches into `ahead`, and finally None, however the stream ends."""
        received = self.position
        subscription = RemoteLog(channel).subscribe(received.seq + 1)
        try:
            while True:
                async with asyncio.timeout(self._silence):
                    delivery = await subscription.read()
                if delivery is None:
                    return
                delivery.check_follows(self.log_id, received)
                self._note_progress(delivery)
                if delivery.entries:
                    await failpoint_async("subscriber.before_verify")
                    received = verify_run(received, delivery.entries)
                    self._is_ahead = True
                    await failpoint_async("subscriber.before_deliver")
                    await ahead.put(Batch(delivery.entries, received))
                    self._is_ahead = False
        finally:
            await ahead.put(None)

    def _note_progress(self, delivery: Delivery) -> None:
        self.log_id, self.head_seq = delivery.log_id, delivery.head_seq
        self.last_progress = time.monotonic()
        self.connected, self._failures = True, 0

    def _next_delay(self) -> float:
        """Doubles after each consecutive failure; jitter keeps replicas apart."""
        ceiling = min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        return ceiling * random.uniform(0.5, 1.0)


def _retryable(error: grpc.aio.AioRpcError | TimeoutError) -> str:
    """The reason for a broken connection if a retry can cure it; raises otherwise."""
    if isinstance(error, TimeoutError):
        return "silence"
    cause = service_error(error)
    if not isinstance(cause, UnavailableError | QueueFullError):
        raise cause from error
    return cause.message
