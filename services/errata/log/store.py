"""The log: appends, reads and epochs, checked against the witness at every step.

Three positions matter. Redis's head may be ahead of the other two, because other services append
too. The *tip* is the last entry that this service appended or verified. The *head* is the last
entry that its witness covers, and that enough of Redis' replicas have; only entries up to the head
are acknowledged or served. A failover of Redis can take the tip back, but not the head.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog

from errata.artifacts import ArtifactStore
from errata.errors import (
    ErrataError,
    LogBehindWitnessError,
    LogUnavailableError,
    SeqTrimmedError,
)
from errata.log.append import Appended, AppendOutcome, NewEntry, epoch_lost, refusal
from errata.log.backend import Reading
from errata.log.chain import ChainedEntry, Position, extend
from errata.log.entries import Entry, SnapshotTaken
from errata.log.history import (
    MAX_PAGE_BYTES,
    LogState,
    Page,
    another_log,
    check_epoch,
    check_from_seq,
    check_reading,
    verified_page,
)
from errata.log.memory import RedisMemory
from errata.log.opening import LogParts, open_parts
from errata.log.tip import Tip
from errata.log.witness import WitnessRecord
from errata.platform.detached import Detached
from errata.platform.failpoints import failpoint_async
from errata.platform.settings import LogSettings

# Each lost race means that another service appended first. After so many, the lock goes to the next
# append, and the caller retries.
_MAX_RACES = 100

_log = structlog.get_logger(__name__)
_Read = Callable[[int, int, int], Awaitable[Reading | None]]


class RedisLog:
    """The log in one Redis; `open` creates it.

    Once Redis contradicts the acknowledged history, every method raises `LogBehindWitnessError`
    until the service is restarted; while Redis does not answer, `LogUnavailableError`.

    Attributes:
        memory: what Redis used when `measure_memory` looked last; None if that is not known.
        records: the entries, not compared with the witness.
    """

    def __init__(self, settings: LogSettings, parts: LogParts) -> None:
        self.records, self._backend = parts.records, parts.records.backend
        self._tip = Tip(parts.records, parts.known, parts.admission, parts.acknowledged)
        self._max_payload_bytes = settings.max_payload_bytes
        self._acknowledged = parts.acknowledged  # its head is the head
        self._lock = asyncio.Lock()  # one append or catch-up at a time: both need the tip
        self._news = asyncio.Event()
        self._loss: LogBehindWitnessError | None = None
        self.memory: RedisMemory | None = None
        # A cancelled caller must not leave the lock to the next append in the middle of a sync.
        self._detached = Detached()

    @classmethod
    async def open(cls, settings: LogSettings, artifacts: ArtifactStore | None = None) -> RedisLog:
        """Checks Redis and witness, then verifies and adopts the entries after the witness.

        Args:
            settings: of the log.
            artifacts: hold the archive of a trimmed log.

        Raises:
            StartupError: Redis cannot be reached or is not durable, or another service owns the
                witness.
            LogNotEmptyError: Redis holds entries and there is no witness.
            LogBehindWitnessError: Redis lost or changed acknowledged entries.
        """
        parts = await open_parts(settings, artifacts)
        known = parts.known
        _log.info("log opened", log_id=known.log_id, head_seq=known.head.seq, epoch=known.epoch)
        return cls(settings, parts)

    @property
    def log_id(self) -> str:
        """The log's identity."""
        return self._tip.known.log_id

    @property
    def is_damaged(self) -> bool:
        """Whether Redis contradicted the acknowledged history."""
        return self._loss is not None

    @property
    def head(self) -> Position:
        """The last acknowledged position that this service knows of."""
        return self._acknowledged.head

    async def acquire_epoch(
        self, writer: str, lease_ms: int = 0, *, only_if_free: bool = False
    ) -> int:
        """Fences every earlier writer; returns the new epoch, which was never granted before.

        Args:
            writer: name of the new writer, for operators.
            lease_ms: how long its lease runs; 0 gives it none.
            only_if_free: changes nothing and returns 0 while another writer's lease runs.
        """
        return await self._detached.run(lambda: self._acquire_epoch(writer, lease_ms, only_if_free))

    async def renew_lease(self, epoch: int, lease_ms: int) -> None:
        """Extends the active writer's lease; 0 ends it.

        Raises:
            EpochLostError: another epoch is active; nothing was changed.
            LogUnavailableError: Redis does not answer.
        """
        with self._guarded():
            active = await self._backend.renew_lease(self.log_id, epoch, lease_ms)
            if active is None:
                raise another_log(self._tip.known, None)
            if active != epoch:
                raise epoch_lost(epoch, active)

    async def lease_left_ms(self) -> int:
        """How long the active writer's lease still runs; 0 without one."""
        with self._guarded():
            return await self._backend.lease_left_ms()

    async def append(self, entry: NewEntry, objection: ErrataError | None = None) -> Appended:
        """Appends an entry, or finds the one with the same key; it is durable on return.

        Cancelling the caller does not stop the append.

        Args:
            entry: to append.
            objection: why it must not be a new entry, if the caller knows a reason.

        Raises:
            InvalidRequestError, UnknownLaneError, NotFoundError, PreconditionError: it contradicts
                the entries before it (`LogFold.check`), or is `objection`; nothing was appended.
            EpochLostError: another epoch is active; nothing was appended, even if the key is
                known.
            RequestIdReusedError: the key belongs to an entry with other content; the error has
                its `first_seq`.
            LimitExceededError: the payload is too big, or Redis is full; nothing was appended.
            LogUnavailableError: the outcome is unknown; retry with the same key.
        """
        return await self._detached.run(lambda: self._append(entry, objection))

    async def state(self) -> LogState:
        """The current state; verifies and adopts entries that other services appended."""
        return await self._detached.run(self._state)

    async def adopt(self, seq: int) -> bool:
        """Verifies and adopts another service's entry; False if the entry was known."""
        return await self._detached.run(lambda: self._adopt(seq))

    async def read(self, from_seq: int, max_entries: int, max_bytes: int = MAX_PAGE_BYTES) -> Page:
        """A verified page of entries from `from_seq` on, of at most `max_bytes` or one entry.

        It is never empty if `from_seq` is at most the head. Archived entries come from the archive.

        Raises:
            InvalidRequestError: `from_seq` is below 1.
            SeqTrimmedError: `from_seq` is below the floor, and there is no archive.
            SeqBeyondHeadError: `from_seq` is above head + 1.
            PreconditionError, ArtifactCorruptError, UnavailableError: `from_seq` is below the
                floor, and the archive cannot be read.
        """
        return await self._page(self.records.read, from_seq, max_entries, max_bytes)

    async def read_retained(self, from_seq: int, max_entries: int, max_bytes: int) -> Page:
        """As `read`, but only from Redis: replicas begin with a snapshot, not with the archive.

        Raises:
            SeqTrimmedError: `from_seq` is below the floor; the error names the newest snapshot.
        """
        return await self._page(self._backend.read, from_seq, max_entries, max_bytes)

    def snapshots(self) -> list[tuple[Entry, SnapshotTaken]]:
        """The acknowledged entries in Redis that name a snapshot, oldest first."""
        return [each for each in self._tip.admission.snapshots if each[0].seq <= self.head.seq]

    def forget_snapshots(self, through_seq: int) -> None:
        """Drops from `snapshots` those that cover no entry after `through_seq`."""
        self._tip.admission.forget_snapshots(through_seq)

    async def holds(self, position: Position) -> bool:
        """Whether this log has `position`; False if it is trimmed or beyond the head.

        Raises:
            LogUnavailableError: too few of Redis' replicas have it to tell.
        """
        if position.seq > self.head.seq:
            await self.state()
            self._check_confirmed(position.seq)
        if position.seq >= self.head.seq:
            return position == self.head
        try:
            page = await self.read(position.seq + 1, 1)
        except SeqTrimmedError:
            return False
        return position == page.base

    async def wait_beyond(self, seconds: float) -> int | None:
        """Waits for an entry after the tip in Redis; returns its seq, or None after `seconds`."""
        return await self._backend.wait_beyond(self._tip.known.head.seq, seconds)

    async def check_redis(self) -> None:
        """Checks a Redis that may have taken over from another one.

        Raises:
            StartupError: its settings would lose acknowledged entries.
            LogUnavailableError: it does not answer; the next call checks it.
        """
        await self._backend.check_configuration()

    async def measure_memory(self) -> None:
        """Refreshes `memory`."""
        self.memory = await self._backend.memory()

    async def wait_for_news(self, seq: int, seconds: float) -> bool:
        """Waits until the head is beyond `seq`; False after `seconds` or a call of `wake`."""
        if self.head.seq <= seq:
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                pass
        return self.head.seq > seq

    def wake(self) -> None:
        """Ends every running `wait_for_news`."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def check(self) -> None:
        """Returns if the log is not known to be damaged; does not ask Redis.

        Raises:
            LogBehindWitnessError: it is.
        """
        if self._loss is not None:
            raise LogBehindWitnessError(self._loss.message, **self._loss.metadata)

    async def warn(self) -> None:
        """Tells the log's other services what this one's witness covers, after a loss."""
        await self._acknowledged.warn()

    async def close(self) -> None:
        """Waits for running appends, then closes Redis and releases the witness."""
        await self._detached.drain()
        await self._backend.close()
        await self._acknowledged.close()

    async def _page(self, read: _Read, from_seq: int, max_entries: int, max_bytes: int) -> Page:
        check_from_seq(from_seq)
        self._check_confirmed(from_seq - 1)
        await failpoint_async("log.read.page")
        with self._guarded():
            known = self._acknowledged.record  # the tip may be taken back
            reading = check_reading(await read(from_seq, max_entries, max_bytes), known)
            return verified_page(reading, from_seq, known.head, self._tip.admission.fold.snapshot)

    async def _acquire_epoch(self, writer: str, lease_ms: int, only_if_free: bool) -> int:
        with self._guarded():
            async with self._lock:
                await self._tip.advance()  # a damaged log must not get a new writer
                await failpoint_async("log.epoch.before_redis")
                epoch = await self._backend.acquire_epoch(
                    self.log_id, writer, lease_ms, only_if_free=only_if_free
                )
                await failpoint_async("log.epoch.after_redis")
                if epoch is None:
                    raise another_log(self._tip.known, None)
                if epoch == 0:
                    return 0
                check_epoch(epoch - 1, self._tip.known)
                self._tip.grant(epoch)
                known, since = self._tip.known, self._acknowledged.num_rollbacks
            await self._acknowledge(known, since)
            await failpoint_async("log.epoch.after_witness")
        _log.info("epoch acquired", writer=writer, epoch=epoch)
        return epoch

    async def _append(self, entry: NewEntry, objection: ErrataError | None) -> Appended:
        with self._guarded():
            async with self._lock:
                self.check()
                appended = await self._append_at_tip(entry, objection)
                known, since = self._tip.known, self._acknowledged.num_rollbacks
            await failpoint_async("log.append.before_witness")
            await self._acknowledge(known, since)
            await failpoint_async("log.append.after_witness")
        return appended

    async def _append_at_tip(self, entry: NewEntry, objection: ErrataError | None) -> Appended:
        for _ in range(_MAX_RACES):
            tip = await self._tip.reach()
            refused = self._tip.admission.refusal(entry) or objection
            new = extend(tip, entry.payload)
            # A refused entry can be a duplicate or of a fenced writer: Redis decides that.
            await failpoint_async("log.append.before_redis")
            outcome, number = await self._backend.append(
                self.log_id, entry, tip, new, refused=refused is not None
            )
            await failpoint_async("log.append.after_redis")
            match outcome:
                case AppendOutcome.REFUSED if refused is not None:
                    raise refused
                case AppendOutcome.OK:
                    self._tip.note(ChainedEntry(new.seq, entry.payload, new.chain_digest))
                    return Appended(new.seq, duplicate=False)
                case AppendOutcome.DUPLICATE:
                    if number > tip.seq:
                        await self._tip.advance()
                    if number <= self._tip.known.head.seq:  # else a failover has just lost it
                        return Appended(number, duplicate=True)
                case AppendOutcome.MOVED:
                    await self._tip.advance()
                case AppendOutcome.FENCED:
                    check_epoch(number, self._acknowledged.record)
                    raise refusal(outcome, number, entry, self._max_payload_bytes)
                case AppendOutcome.FOREIGN:
                    raise another_log(self._tip.known, None)
                case _:
                    raise refusal(outcome, number, entry, self._max_payload_bytes)
        raise LogUnavailableError(
            "too many other services are appending; retry with the same request id."
        )

    async def _state(self) -> LogState:
        with self._guarded():
            async with self._lock:
                floor_seq = await self._tip.advance()
                known, fold = self._tip.known, self._tip.admission.fold
                voided, impossible = tuple(sorted(fold.voided)), dict(fold.impossible)
                since = self._acknowledged.num_rollbacks
            # What Redis' replicas lack is not the head yet; what is before it can be read.
            is_confirmed = await self._confirm(known, since)
            head = known.head if is_confirmed else self.head
            newest = self._tip.snapshot(head)
        return LogState(known.log_id, head, floor_seq, known.epoch, voided, impossible, newest)

    async def _adopt(self, seq: int) -> bool:
        async with self._lock:  # a running append of this service may be this very entry
            is_known = self._tip.known.head.seq >= seq
        if not is_known:
            await self._state()
        return not is_known

    def _check_confirmed(self, seq: int) -> None:
        """Another service may have shown a reader what this one cannot confirm yet."""
        if self.head.seq < seq <= self._tip.known.head.seq:
            raise LogUnavailableError(
                f"too few replicas of the log's Redis have entry {seq} (log.min_replica_acks); "
                "retry."
            )

    async def _acknowledge(self, known: WitnessRecord, num_rollbacks: int) -> None:
        if not await self._confirm(known, num_rollbacks):
            raise LogUnavailableError(
                "too few replicas of the log's Redis have the entry (log.min_replica_acks), or a "
                "failover lost it, so nothing was acknowledged; retry with the same request id."
            )

    async def _confirm(self, known: WitnessRecord, num_rollbacks: int) -> bool:
        """Acknowledges `known`, unless a failover of Redis could still lose it."""
        if not await self._acknowledged.confirm(known, self._tip.known, num_rollbacks):
            return False
        if await self._acknowledged.cover(known):
            self.wake()
        return True

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
