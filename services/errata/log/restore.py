"""Fills an empty Redis and an empty witness with the entries of a backup, as a new log.

The witness is written first. A restore that is killed therefore leaves a log that no service
opens: its witness knows of entries that Redis does not hold. In Redis the entries wait under other
names, and become the log in one transaction.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from errata.errors import LogUnavailableError, PreconditionError
from errata.log.backend import RedisBackend
from errata.log.chain import ORIGIN, ChainedEntry, Position, verify_run
from errata.log.convert import stored_request
from errata.log.opening import opening
from errata.log.witness import WitnessFile, WitnessRecord
from errata.platform.settings import LogSettings

EPOCH_STEP = 1_000_000
"""A writer of the copied log may still run under an epoch from after the backup; no epoch of the
restored log may equal it."""
_BATCH = 500


class RestoringLog:
    """An empty log that is being filled; `restoring` opens it.

    Attributes:
        log_id: the new log's identity.
        is_finishing: it may be the log of this Redis, whatever `finish` says.
    """

    def __init__(self, file: WitnessFile, target: _Target) -> None:
        """Has written nothing."""
        self.log_id = uuid.uuid4().hex
        self._file = file
        self._target = target
        self._position = ORIGIN
        self.is_finishing = False

    async def announce(self, head: Position, epoch: int) -> None:
        """Writes the witness: from here on the log counts as damaged until `finish`.

        Args:
            head: the last entry that will be added.
            epoch: of the copied log.
        """
        self._record = WitnessRecord(self.log_id, head, epoch + EPOCH_STEP)
        await asyncio.to_thread(self._file.write, self._record)

    async def add(self, entries: Sequence[ChainedEntry]) -> None:
        """Adds the next entries.

        Raises:
            LogBehindWitnessError: they do not continue those before.
            LogUnavailableError: Redis does not answer.
            LimitExceededError: Redis is out of memory.
        """
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            end = verify_run(self._position, batch)
            await self._target.stage(self._position, batch)
            self._position = end

    async def finish(self) -> None:
        """Makes what was added the log.

        Raises:
            PreconditionError: another log came into Redis meanwhile.
            LogUnavailableError: Redis does not answer.
        """
        assert self._position == self._record.head
        self.is_finishing = True
        await self._target.publish(self._record)


@asynccontextmanager
async def restoring(settings: LogSettings) -> AsyncIterator[RestoringLog]:
    """An empty log to fill; if the body fails, Redis and witness are empty again.

    Args:
        settings: of the log service that will serve the log.

    Raises:
        StartupError: Redis cannot be reached or is not durable, or a service owns the witness.
        PreconditionError: Redis or the witness belong to a log.
    """
    async with opening(settings) as (file, backend):
        if file.record is not None:
            raise _not_empty(f"the witness {settings.witness_path} is of log {file.record.log_id}")
        target, made = _Target(settings), None
        try:
            await target.check_empty()
            made = RestoringLog(file, target)
            yield made
        except BaseException:
            if made is None or not await target.may_hold(made):
                settings.witness_path.unlink()
                with suppress(LogUnavailableError):
                    await target.discard()
            raise
        finally:
            await target.close()
    await backend.close()
    file.close()


def _not_empty(what: str) -> PreconditionError:
    return PreconditionError(
        f"a log can be restored only into an empty deployment, and {what}. Nothing was changed. "
        "Name another data_dir (--data-dir), or another log.redis_url and log.witness_path."
    )


class _Target(RedisBackend):
    """The log's keys, written from outside the append script."""

    def __init__(self, settings: LogSettings) -> None:
        super().__init__(settings)
        self._names = (self._stream, self._head, self._requests)
        self._staged_stream = f"{self._stream}:restoring"
        self._staged_requests = f"{self._requests}:restoring"
        self._staged = (self._staged_stream, self._staged_requests)

    async def check_empty(self) -> None:
        """Checks that Redis holds no log; removes what a killed restore left.

        Raises:
            PreconditionError: it holds one.
        """
        with self._failures():
            if await self._client.exists(*self._names):
                raise _not_empty(f"the Redis at {self.address} holds a log")
        await self.discard()

    async def may_hold(self, made: RestoringLog) -> bool:
        """Whether the log was published although its last command failed; then it must stay."""
        if not made.is_finishing:
            return False
        try:
            reading = await self.read(1, 0, 1)
        except LogUnavailableError:
            return True
        return reading is not None and reading.log_id == made.log_id

    async def discard(self) -> None:
        """Removes entries that wait."""
        with self._failures():
            await self._client.delete(*self._staged)

    async def stage(self, base: Position, entries: Sequence[ChainedEntry]) -> None:
        """Lets entries wait, and their request ids."""
        requests: dict[Any, Any] = {}
        prev = base.chain_digest
        with self._failures():
            async with self._client.pipeline(transaction=False) as pipeline:
                for entry in entries:
                    fields: dict[Any, Any] = {
                        "payload": entry.payload,
                        "prev": prev,
                        "digest": entry.chain_digest,
                    }
                    pipeline.xadd(self._staged_stream, fields, id=f"{entry.seq}-0")
                    prev = entry.chain_digest
                    if (request := stored_request(entry)) is not None:
                        requests[request[0]] = b"%d:%s" % (entry.seq, request[1])
                if requests:
                    pipeline.hset(self._staged_requests, mapping=requests)
                await pipeline.execute()

    async def publish(self, record: WitnessRecord) -> None:
        """Makes the waiting entries the log, in one transaction."""
        fields: dict[Any, Any] = {
            "log_id": record.log_id,
            "seq": str(record.head.seq),
            "digest": record.head.chain_digest,
            "epoch": str(record.epoch),
        }
        with self._failures():
            transaction: Any = self._client.pipeline(transaction=True)
            async with transaction as pipeline:
                await pipeline.watch(*self._names)
                if await pipeline.exists(*self._names):
                    raise _not_empty(f"the Redis at {self.address} holds a log")
                waiting = [name for name in self._staged if await pipeline.exists(name)]
                pipeline.multi()
                for name in waiting:
                    pipeline.rename(name, name.removesuffix(":restoring"))
                pipeline.hset(self._head, mapping=fields)
                await pipeline.execute()
