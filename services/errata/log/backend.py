"""The log's operations on Redis, each of them atomic, with typed errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

import structlog
from redis.exceptions import (
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)

from errata.errors import LimitExceededError, LogUnavailableError, StartupError
from errata.log.append import AppendOutcome, NewEntry
from errata.log.chain import ORIGIN, ChainedEntry, Position
from errata.log.connections import Connections
from errata.log.entries import ArtifactRef
from errata.log.memory import RedisMemory
from errata.log.witness import WitnessRecord
from errata.platform.settings import LogSettings

# With any other value, Redis can lose acknowledged entries silently.
REQUIRED_CONFIG = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """The content of Redis at one instant, not verified yet.

    Attributes:
        floor: the position before the first retained entry, or the head if none is retained.
        archive: the index of the archive up to there; None if nothing was archived.
        forgotten_seq: the request ids of archived entries up to there are forgotten.
        base: the position that the first of `entries` says it continues; None without entries.
        witnessed: what a service of this log found missing and reported here; None if all agree.
    """

    log_id: str
    head: Position
    epoch: int
    floor: Position
    archive: ArtifactRef | None
    forgotten_seq: int
    base: Position | None
    entries: tuple[ChainedEntry, ...]
    witnessed: WitnessRecord | None = None

    @property
    def floor_seq(self) -> int:
        """The first retained entry, or head + 1 if none is retained."""
        return self.floor.seq + 1


class _Script:
    """A Lua script, called by its digest; its source is sent again if Redis does not know it."""

    def __init__(self, name: str) -> None:
        self.source = files("errata.log").joinpath(name).read_text("utf-8")
        self.sha = hashlib.sha1(self.source.encode()).hexdigest()


class RedisBackend:
    """The log's keys in one Redis. It returns what Redis holds; `RedisLog` verifies it.

    Every method raises `LogUnavailableError` if Redis does not answer in time; the operation may
    or may not have been executed.

    Attributes:
        heeded: digest of the last warning that the caller has looked into; `append` finds the head
            moved if there is another one.
    """

    def __init__(self, settings: LogSettings) -> None:
        """Prepares the connections and opens none."""
        # Braces keep the keys in one slot of a Redis Cluster, as scripts need.
        prefix = f"{{{settings.key_prefix}}}"
        self._stream, self._head = f"{prefix}:stream", f"{prefix}:head"
        self._requests, self._lease = f"{prefix}:requests", f"{prefix}:lease"
        self._append = _Script("append.lua")
        self._acquire = _Script("acquire.lua")
        self._renew = _Script("renew.lua")
        self._confirm = _Script("confirm.lua")
        self._warn = _Script("warn.lua")
        self._read = _Script("read.lua")
        self._trim = _Script("trim.lua")
        self._forget = _Script("forget.lua")
        self._allow_unsafe = settings.allow_unsafe_redis
        self._max_payload_bytes = settings.max_payload_bytes
        self._reserve_bytes = settings.memory_reserve_bytes
        self.heeded = b""
        self._num_acks = settings.min_replica_acks
        self._ack_seconds = settings.replica_ack_timeout_seconds
        self._connections = Connections(settings)
        self._client, self._tail = self._connections.client, self._connections.tail
        self.address = self._connections.address

    async def check_configuration(self) -> None:
        """Checks that Redis cannot lose acknowledged entries.

        Raises:
            StartupError: it can; the message names the setting and the remedy.
        """
        with self._failures():
            try:
                found: dict[str | None, str | None] = {}
                for name in REQUIRED_CONFIG:  # Redis 6 accepts only one name per call
                    found |= await self._client.config_get(name)
            except ResponseError as error:
                if not _is_config_hidden(error):
                    raise
                _log.warning(
                    "CONFIG is forbidden: the durability of Redis was not checked",
                    redis=self.address,
                    required=REQUIRED_CONFIG,
                )
                return
        for name, wanted in REQUIRED_CONFIG.items():
            value = found.get(name)
            if value != wanted:
                problem = (
                    f"Redis at {self.address} has {name} {value}, with which the log can lose "
                    f"acknowledged entries. Set `{name} {wanted}` in its configuration, or run "
                    f"`CONFIG SET {name} {wanted}`, and start again."
                )
                if not self._allow_unsafe:
                    remedy = f"`{name} {wanted}` in its configuration"
                    raise StartupError(
                        problem, remedy=remedy, setting=name, value=value, required=wanted
                    )
                _log.warning("log.allow_unsafe_redis is set", problem=problem)

    async def create(self, log_id: str) -> None:
        """Creates an empty log; an existing log stays unchanged."""
        fields = {
            "log_id": log_id,
            "seq": "0",
            "digest": ORIGIN.chain_digest,
            "epoch": "0",
        }
        with self._failures():
            async with self._client.pipeline(transaction=True) as pipeline:
                for name, value in fields.items():
                    pipeline.hsetnx(self._head, name, cast(Any, value))
                await pipeline.execute()

    async def read(self, from_seq: int, max_entries: int, max_bytes: int) -> Reading | None:
        """The state and up to `max_entries` entries from `from_seq`; None if there is no log.

        The first entry is returned even if it alone exceeds `max_bytes`.
        """
        reply = await self._run(
            self._read, (self._stream, self._head), (from_seq, max_entries, max_bytes)
        )
        if reply is None:
            return None
        log_id, seq, digest, epoch, floor, before, archive, forgotten, rows, *other = reply
        base = Position(from_seq - 1, rows[0][1]) if rows else None
        entries = tuple(
            ChainedEntry(number, payload, stored)
            for number, (payload, _, stored) in enumerate(rows, start=from_seq)
        )
        return Reading(
            log_id=log_id.decode(),
            head=Position(int(seq), digest),
            epoch=int(epoch),
            floor=Position(int(floor) - 1, before),
            archive=_ref_of(archive.decode()),
            forgotten_seq=int(forgotten or 0),
            base=base,
            entries=entries,
            witnessed=_warning_of(log_id.decode(), other),
        )

    async def append(
        self, log_id: str, entry: NewEntry, head: Position, new: Position, *, refused: bool = False
    ) -> tuple[AppendOutcome, int]:
        """Runs the append script.

        Args:
            log_id: the log to append to.
            entry: to append.
            head: the position before it, as far as the caller knows.
            new: the position after it.
            refused: the entry contradicts the entries up to `head`: only look for other outcomes.

        Returns:
            The outcome and its number: the entry's seq (OK, DUPLICATE, CONFLICT), the head's seq
            (MOVED), the active epoch (FENCED), Redis' free bytes (RESERVED), the payload's size
            (TOO_BIG), otherwise 0.

        Raises:
            LimitExceededError: Redis is out of memory; nothing was written.
        """
        arguments = (
            log_id,
            entry.epoch,
            entry.request_id,
            entry.content_digest,
            head.seq,
            head.chain_digest,
            entry.payload,
            new.seq,
            new.chain_digest,
            self._max_payload_bytes,
            int(refused),
            self._reserve_bytes if entry.leaves_reserve else 0,
            self.heeded,
        )
        keys = (self._stream, self._head, self._requests)
        reply = await self._run(self._append, keys, arguments)
        return AppendOutcome(reply[0].decode()), int(reply[1]) if len(reply) > 1 else 0

    async def acquire_epoch(
        self, log_id: str, writer: str, lease_ms: int = 0, *, only_if_free: bool = False
    ) -> int | None:
        """Grants the next epoch with a lease of `lease_ms`.

        Returns:
            The epoch; 0 if `only_if_free` and another lease runs; None if Redis holds another log
            or none.
        """
        arguments = (log_id, writer, int(only_if_free), lease_ms)
        reply = await self._run(self._acquire, (self._head, self._lease), arguments)
        return None if reply[0] == b"FOREIGN" else int(reply[1])

    async def renew_lease(self, log_id: str, epoch: int, lease_ms: int) -> int | None:
        """Extends the lease; 0 ends it.

        Returns:
            The active epoch; the lease is unchanged if it is another. None if Redis holds another
            log or none.
        """
        arguments = (log_id, epoch, lease_ms)
        reply = await self._run(self._renew, (self._head, self._lease), arguments)
        return None if reply[0] == b"FOREIGN" else int(reply[1])

    async def lease_left_ms(self) -> int:
        """Milliseconds until the active writer's lease ends; 0 without one."""
        with self._failures():
            return max(0, int(await self._client.pttl(self._lease)))

    async def confirm(self, record: WitnessRecord) -> bool:
        """Whether Redis and `min_replica_acks` of its replicas hold the record's position."""
        if self._num_acks == 0:
            return True
        head = record.head
        arguments = (record.log_id, record.epoch, head.seq, head.chain_digest)
        keys = (self._stream, self._head)
        # WAIT waits for the writes of its own connection.
        async with self._client.pipeline(transaction=False) as pipeline:
            # Not by its digest: in a pipeline, an unknown script would fail only after the WAIT.
            pipeline.eval(self._confirm.source, len(keys), *keys, *cast(Any, arguments))
            pipeline.execute_command("WAIT", self._num_acks, int(self._ack_seconds * 1000))
            with self._failures():
                is_held, num_replicas = await pipeline.execute()
        if is_held and num_replicas < self._num_acks:
            _log.warning("too few replicas", have=num_replicas, wanted=self._num_acks)
        return bool(is_held) and int(num_replicas) >= self._num_acks

    async def warn(self, record: WitnessRecord) -> None:
        """Leaves a witness's record, which Redis contradicts, for the log's other services."""
        head = record.head
        arguments = (record.log_id, record.epoch, head.seq, head.chain_digest)
        await self._run(self._warn, (self._head,), arguments)

    async def forget_warning(self) -> None:
        """Removes what `warn` left."""
        with self._failures():
            names = ("witnessed_epoch", "witnessed_seq", "witnessed_digest")
            await cast(Any, self._client.hdel(self._head, *names))

    async def trim(self, before: Reading, end: Position, archive: ArtifactRef) -> bool:
        """Makes the entries up to `end` leave Redis; False if another service came first.

        Args:
            before: says which archive was there.
            end: the last entry that leaves.
            archive: the index of the archive that holds all entries up to it.
        """
        old = "" if before.archive is None else _name_of(before.archive)
        arguments = (before.log_id, old, end.seq, end.chain_digest, _name_of(archive))
        reply = await self._run(self._trim, (self._stream, self._head), arguments)
        return bool(reply[0] == b"OK")

    async def forget(
        self, before: Reading, through_seq: int, requests: Sequence[tuple[str, int]]
    ) -> bool:
        """Forgets request ids of archived entries; False if another service came first.

        Args:
            before: says up to where they are forgotten already.
            through_seq: they are forgotten up to there afterwards.
            requests: id and seq of entries in between; few, because Redis does nothing else
                meanwhile.
        """
        old = before.forgotten_seq or ""
        flat = [value for pair in requests for value in pair]
        keys, arguments = (self._head, self._requests), (before.log_id, old, through_seq, *flat)
        reply = await self._run(self._forget, keys, arguments)
        return bool(reply[0] == b"OK")

    async def memory(self) -> RedisMemory | None:
        """What Redis uses of its limit; None where INFO is forbidden."""
        with self._failures():
            try:
                info: Any = await self._client.info("memory")
            except ResponseError as error:
                if not _is_config_hidden(error):
                    raise
                return None
        return RedisMemory.of(info, self._reserve_bytes)

    async def wait_beyond(self, seq: int, seconds: float) -> int | None:
        """Waits for an entry after `seq`; returns its seq, or None if the time ran out."""
        with self._failures():
            found: Any = await self._tail.xread(
                {self._stream: f"{seq}-0"}, count=1, block=max(1, int(seconds * 1000))
            )
        if not found:
            return None
        return int(found[0][1][0][0].split(b"-")[0])

    async def close(self) -> None:
        """Closes every connection."""
        await self._connections.close()

    async def _run(self, script: _Script, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        values = (*keys, *arguments)
        with self._failures():
            client: Any = self._client
            try:
                return await client.evalsha(script.sha, len(keys), *values)
            except NoScriptError:  # nothing was executed: Redis restarted or flushed its scripts
                return await client.eval(script.source, len(keys), *values)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError, TimeoutError) as error:
            if _is_out_of_memory(error):
                raise LimitExceededError(
                    "the log's Redis has reached its maxmemory; nothing was appended. "
                    "Give it more memory, then retry with the same request id."
                ) from error
            cause = str(error).rstrip(".") or type(error).__name__
            _log.warning("Redis failed", redis=self.address, cause=cause)
            raise LogUnavailableError(
                "the log's Redis failed; the log service's log has the cause. Nothing was "
                "acknowledged; retry with the same request id."
            ) from error


def _name_of(ref: ArtifactRef) -> str:
    return f"{ref.digest}:{ref.size_bytes}"


def _warning_of(log_id: str, reported: Sequence[Any]) -> WitnessRecord | None:
    """What `warn` left: epoch, seq and digest; None if it left nothing."""
    if not reported or reported[0] is None:
        return None
    epoch, seq, digest = reported
    return WitnessRecord(log_id, Position(int(seq), digest), int(epoch))


def _ref_of(name: str) -> ArtifactRef | None:
    digest, _, size = name.partition(":")
    return ArtifactRef(digest, int(size)) if name else None


def _is_out_of_memory(error: Exception) -> bool:
    """Redis before 7 wraps the error of a script's command in an error of the script."""
    return isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error)


def _is_config_hidden(error: ResponseError) -> bool:
    return isinstance(error, NoPermissionError) or "unknown command" in str(error).lower()
