"""The log: appends, reads and epochs, checked against the witness at every step.

Three positions matter. Redis's head may be ahead of everything we know, because other services
append too. The *tip* is the last entry whose chain we made or verified. The *head* is the last
one that our witness vouches for; only entries up to it are acknowledged or served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from errata.errors import (
    LogBehindWitnessError,
    LogUnavailableError,
    SeqTrimmedError,
    StartupError,
)
from errata.log.append import NewEntry, Outcome, refusal
from errata.log.backend import RedisBackend
from errata.log.chain import Position, extend
from errata.log.history import (
    MAX_PAGE_BYTES,
    Page,
    advance,
    another_log,
    check_epoch,
    check_from_seq,
    check_reading,
    open_history,
    verified_page,
)
from errata.log.witness import Witness, WitnessFile, WitnessRecord
from errata.platform.settings import LogSettings

# Each lost race means that another service appended; this many in a row is no accident.
_MAX_RACES = 100

T = TypeVar("T")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LogState:
    """Where the log stands."""

    log_id: str
    head: Position
    floor_seq: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an entry stands; `duplicate` if an earlier append with the same key made it."""

    seq: int
    duplicate: bool


class RedisLog:
    """The log in one Redis. Make it with `open`.

    Once Redis contradicts what was acknowledged, every method raises `LogBehindWitnessError`
    until an operator has looked and the service is started again. Where Redis does not answer,
    they raise `LogUnavailableError`.
    """

    def __init__(
        self, settings: LogSettings, backend: RedisBackend, witness: Witness, known: WitnessRecord
    ) -> None:
        self._backend = backend
        self._witness = witness
        self._max_payload_bytes = settings.max_payload_bytes
        self._known = known  # its head is the tip
        self._head = known.head
        self._lock = asyncio.Lock()  # one append or catch-up at a time: each needs the tip
        self._news = asyncio.Event()
        self._loss: LogBehindWitnessError | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(cls, settings: LogSettings) -> RedisLog:
        """Checks Redis and witness, verifies what the witness has not seen, and adopts it.

        Raises:
            StartupError: Redis cannot be reached or is not durable, or another service owns the
                witness.
            LogNotEmptyError: entries without a witness.
            LogBehindWitnessError: Redis lost or changed what was acknowledged.
        """
        file = await asyncio.to_thread(WitnessFile, settings.witness_path)
        backend = None
        try:
            backend = RedisBackend(settings)
            await backend.check_configuration()
            base = await open_history(
                backend, file.record, adopt_unwitnessed=settings.adopt_unwitnessed
            )
            known, _ = await advance(backend, base)
            witness = Witness(file, known)
            await witness.cover(known)
        except BaseException as error:
            if backend is not None:
                await backend.close()
            file.close()
            if isinstance(error, LogUnavailableError):
                cause = str(error.__cause__ or error.message).rstrip(".")
                raise StartupError(
                    f"the log cannot be opened: {cause}. Check that "
                    "Redis runs and answers at log.redis_url.",
                    address=backend.address if backend else "",
                ) from error
            raise
        _log.info("log opened", log_id=known.log_id, head_seq=known.head.seq, epoch=known.epoch)
        return cls(settings, backend, witness, known)

    @property
    def log_id(self) -> str:
        """Identity of the log."""
        return self._known.log_id

    @property
    def is_damaged(self) -> bool:
        """Whether Redis contradicted what was acknowledged."""
        return self._loss is not None

    @property
    def head(self) -> Position:
        """The last acknowledged position that this service knows of."""
        return self._head

    async def acquire_epoch(self, writer: str) -> int:
        """Fences every earlier writer; the new epoch, never granted before.

        Args:
            writer: who takes over; shown to operators.
        """
        return await self._unbroken(self._acquire_epoch(writer))

    async def append(self, entry: NewEntry) -> Appended:
        """Appends an entry, or finds the one that this key made; durable when it returns.

        A caller that is cancelled leaves the append running: half of it is never undone.

        Raises:
            EpochLostError: another epoch is in force; nothing was appended, known key or not.
            RequestIdReusedError: the key made another entry, whose `first_seq` is told.
            LimitExceededError: the payload or Redis is too big; nothing was appended.
            LogUnavailableError: the outcome is unknown; retry with the same key.
        """
        return await self._unbroken(self._append(entry))

    async def state(self) -> LogState:
        """Where the log stands now; what other services appended is verified and adopted."""
        return await self._unbroken(self._state())

    async def adopt(self, seq: int) -> None:
        """Verifies and adopts another service's entry; asks nothing of Redis if it is ours."""
        await self._unbroken(self._adopt(seq))

    async def read(self, from_seq: int, max_entries: int) -> Page:
        """A page of entries from `from_seq` on, bounded by 2 MiB too, verified.

        Never empty if `from_seq` is at most the head.

        Raises:
            InvalidRequestError: `from_seq` is below 1.
            SeqTrimmedError: `from_seq` is below the floor, which is told.
            SeqBeyondHeadError: `from_seq` is above head + 1.
        """
        check_from_seq(from_seq)
        with self._guarded():
            known, head = self._known, self._head
            reading = await self._backend.read(from_seq, max_entries, MAX_PAGE_BYTES)
            return verified_page(check_reading(reading, known), from_seq, head, known.head)

    async def holds(self, position: Position) -> bool:
        """Whether `position` is one of this log's; False if it is trimmed or ahead of the log."""
        if position.seq > self._head.seq:
            await self.state()
        if position.seq >= self._head.seq:
            return position == self._head
        try:
            page = await self.read(position.seq + 1, 1)
        except SeqTrimmedError:
            return False
        return position == page.base

    async def wait_beyond(self, seconds: float) -> int | None:
        """Waits for Redis to hold an entry after the tip; its number, or None if none came."""
        return await self._backend.wait_beyond(self._known.head.seq, seconds)

    async def wait_for_news(self, seq: int, seconds: float) -> bool:
        """Waits until the head is beyond `seq`; False if time passed or `wake` was called."""
        if self._head.seq <= seq:
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                pass
        return self._head.seq > seq

    def wake(self) -> None:
        """Ends every `wait_for_news` that is under way."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def check(self) -> None:
        """Raises what every method would raise, without asking Redis.

        Raises:
            LogBehindWitnessError: the log is known to be damaged.
        """
        if self._loss is not None:
            raise LogBehindWitnessError(self._loss.message, **self._loss.metadata)

    async def close(self) -> None:
        """Lets running appends end, then closes Redis and gives the witness back."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._backend.close()
        await self._witness.close()

    async def _acquire_epoch(self, writer: str) -> int:
        with self._guarded():
            async with self._lock:
                await self._advance()  # a damaged log gets no new writer
                epoch = await self._backend.acquire_epoch(self.log_id, writer)
                if epoch is None:
                    raise another_log(self._known, None)
                check_epoch(epoch - 1, self._known)
                self._known = replace(self._known, epoch=epoch)
                known = self._known
            await self._acknowledge(known)
        _log.info("epoch acquired", writer=writer, epoch=epoch)
        return epoch

    async def _append(self, entry: NewEntry) -> Appended:
        with self._guarded():
            async with self._lock:
                self.check()
                appended = await self._append_at_tip(entry)
                known = self._known
            await self._acknowledge(known)
        return appended

    async def _append_at_tip(self, entry: NewEntry) -> Appended:
        for _ in range(_MAX_RACES):
            tip = self._known.head
            new = extend(tip, entry.payload)
            outcome, number = await self._backend.append(self.log_id, entry, tip, new)
            match outcome:
                case Outcome.OK:
                    self._known = replace(self._known, head=new)
                    return Appended(new.seq, duplicate=False)
                case Outcome.DUPLICATE:
                    if number > tip.seq:
                        await self._advance()
                    return Appended(number, duplicate=True)
                case Outcome.MOVED:
                    await self._advance()
                case Outcome.FENCED:
                    check_epoch(number, self._known)
                    raise refusal(outcome, number, entry, self._max_payload_bytes)
                case Outcome.FOREIGN:
                    raise another_log(self._known, None)
                case _:
                    raise refusal(outcome, number, entry, self._max_payload_bytes)
        raise LogUnavailableError(
            "too many other services append at once; retry with the same request id."
        )

    async def _state(self) -> LogState:
        with self._guarded():
            async with self._lock:
                floor_seq = await self._advance()
                known = self._known
            await self._acknowledge(known)
        return LogState(known.log_id, known.head, floor_seq, known.epoch)

    async def _adopt(self, seq: int) -> None:
        async with self._lock:  # an append of ours that is under way may be this very entry
            is_known = self._known.head.seq >= seq
        if not is_known:
            await self._state()

    async def _advance(self) -> int:
        self._known, floor_seq = await advance(self._backend, self._known)
        return floor_seq

    async def _acknowledge(self, known: WitnessRecord) -> None:
        await self._witness.cover(known)
        if known.head.seq > self._head.seq:
            self._head = known.head
            self.wake()

    async def _unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` to its end even if the caller is cancelled.

        A sync that went on while another append took its place could acknowledge too much.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may have gone: not "never retrieved"

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        self.check()
        try:
            yield
        except LogBehindWitnessError as error:
            if self._loss is None:
                self._loss = error
                _log.critical("the log is damaged", reason=error.message, **error.metadata)
                self.wake()
            raise
