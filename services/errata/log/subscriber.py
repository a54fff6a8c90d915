"""The subscriber that every replica uses: verified entries, in order, across any break."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import grpc
import structlog

from errata.errors import UnavailableError
from errata.log.chain import ORIGIN, ChainedEntry, Position, verify_run
from errata.log.delivery import Delivery
from errata.log.remote import RemoteLog
from errata.platform.rpc_errors import service_error
from errata.platform.server import open_channel

SILENCE_SECONDS = 3.0
_FIRST_DELAY_SECONDS = 0.05
_MAX_DELAY_SECONDS = 2.0
_MAX_AHEAD = 4  # batches; with 500 entries each, more than the lag at which a replica is unwell

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries that continue what came before, verified.

    Attributes:
        entries: at least one, in order.
        position: where a replica stands that has applied them.
    """

    entries: tuple[ChainedEntry, ...]
    position: Position


class Subscriber:
    """Follows the log from a position.

    Attributes:
        position: up to where batches were taken; a batch counts when the next is asked for.
        head_seq: the log's head as last heard; 0 before the first message.
        log_id: the log's identity; empty before the first message.
        last_progress: `time.monotonic()` of the last message, at first of the construction.
        connected: whether the log was heard of on the present connection.
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
            dial: the log service's address, or what opens a new channel to it, with a local
                subchannel pool. A dead link is known by silence alone, and only a new connection
                cures it; so each attempt opens a channel of its own, and closes it.
            position: the last entry that was applied, with its H; entries after it are wanted.
            log_id: the log that `position` is of; the first one heard of if empty.
            silence_seconds: how long nothing may come before the link counts as dead; progress
                comes each second.
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
        """How long nothing was heard; 0 while what was heard waits for the consumer to take it."""
        return 0.0 if self._is_ahead else time.monotonic() - self.last_progress

    def start_from(self, position: Position, log_id: str) -> None:
        """Moves to a position before `batches` is iterated, as if constructed with it."""
        self.position, self.log_id = position, log_id

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Batches, for ever; wrap in `contextlib.aclosing` to hang up at once when done.

        The link is read while the consumer works, a few batches ahead, so that head and silence
        stay true however long a batch takes to apply.

        Raises:
            LogBehindWitnessError: the log contradicts itself or `position`, or is another log.
                No entry of the message was yielded; the replica must leave rotation.
            SeqTrimmedError: the log no longer has the next entry; start from a snapshot.
            SeqBeyondHeadError: the log ends before `position`.
            ErrataError: any other answer that a retry does not change, such as no permission.
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
                    ahead.get_nowait()  # the reader's last word needs room
                await asyncio.gather(reading, return_exceptions=True)
                await channel.close()
            _log.info("resubscribing", reason=reason, from_seq=self.position.seq + 1)
            await asyncio.sleep(self._next_delay())

    def _open(self) -> grpc.aio.Channel:
        return open_channel(self._dial) if isinstance(self._dial, str) else self._dial()

    async def _read(self, channel: grpc.aio.Channel, ahead: asyncio.Queue[Batch | None]) -> None:
        """Puts verified batches into `ahead`, then None, however the stream ends."""
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
                    received = verify_run(received, delivery.entries)
                    self._is_ahead = True
                    await ahead.put(Batch(delivery.entries, received))
                    self._is_ahead = False
        finally:
            await ahead.put(None)

    def _note_progress(self, delivery: Delivery) -> None:
        self.log_id, self.head_seq = delivery.log_id, delivery.head_seq
        self.last_progress = time.monotonic()
        self.connected, self._failures = True, 0

    def _next_delay(self) -> float:
        """Doubles with each failure in a row; jittered, so that replicas do not come as one."""
        ceiling = min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        return ceiling * random.uniform(0.5, 1.0)


def _retryable(error: grpc.aio.AioRpcError | TimeoutError) -> str:
    """Why the link broke, in words, if another try may cure it; raises otherwise."""
    if isinstance(error, TimeoutError):
        return "silence"
    cause = service_error(error)
    if not isinstance(cause, UnavailableError):
        raise cause from error
    return cause.message
