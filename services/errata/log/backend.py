"""The log's operations on Redis, each of them atomic, with typed errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
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
from errata.log.entries import ArtifactRef
from errata.log.memory import RedisMemory
from errata.platform.settings import LogSettings

MAX_CONNECTIONS = 32

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
    """

    log_id: str
    head: Position
    epoch: int
    floor: Position
    archive: ArtifactRef | None
    forgotten_seq: int
    base: Position | None
    entries: tuple[ChainedEntry, ...]

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
    """

    def __init__(self, settings: LogSettings) -> None:
        """Prepares the connections and opens none."""
        # Braces keep the keys in one slot of a Redis Cluster, as scripts need.
        prefix = f"{{{settings.key_prefix}}}"
        self._stream, self._head = f"{prefix}:stream", f"{prefix}:head"
        self._requests = f"{prefix}:requests"
        self._append = _Script("append.lua")
        self._acquire = _Script("acquire.lua")
        self._read = _Script("read.lua")
        self._trim = _Script("trim.lua")
        self._forget = _Script("forget.lua")
        timeout = settings.redis_timeout_seconds
        self._timeout = timeout
        self._allow_unsafe = settings.allow_unsafe_redis
        self._max_payload_bytes = settings.max_payload_bytes
        self._reserve_bytes = settings.memory_reserve_bytes
        password = _password(settings.redis_password_file)
        try:
            pool = BlockingConnectionPool.from_url(
                settings.redis_url,
                max_connections=MAX_CONNECTIONS,
                timeout=timeout,
                **password,
                **_connection_options(timeout),
            )
        except ValueError as error:
            raise StartupError(f"log.redis_url is not a Redis URL: {error}.") from error
        self._client = Redis.from_pool(pool)
        # A blocking read occupies its connection, and waits longer than any other call.
        self._tail = Redis.from_url(
            settings.redis_url, **password, **_connection_options(timeout + 2.0)
        )
        options = pool.connection_kwargs
        self.address = str(
            options.get("path") or f"{options.get('host')}:{options.get('port', 6379)}"
        )

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
        log_id, seq, digest, epoch, floor, before, archive, forgotten, rows = reply
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
        )
        keys = (self._stream, self._head, self._requests)
        reply = await self._run(self._append, keys, arguments)
        return AppendOutcome(reply[0].decode()), int(reply[1]) if len(reply) > 1 else 0

    async def acquire_epoch(self, log_id: str, writer: str) -> int | None:
        """Grants the next epoch; returns None if Redis holds another log or none."""
        reply = await self._run(self._acquire, (self._head,), (log_id, writer))
        return int(reply[1]) if reply[0] == b"OK" else None

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
        await self._tail.aclose()
        await self._client.aclose()

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


def _ref_of(name: str) -> ArtifactRef | None:
    digest, _, size = name.partition(":")
    return ArtifactRef(digest, int(size)) if name else None


def _is_out_of_memory(error: Exception) -> bool:
    """Redis before 7 wraps the error of a script's command in an error of the script."""
    return isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error)


def _is_config_hidden(error: ResponseError) -> bool:
    return isinstance(error, NoPermissionError) or "unknown command" in str(error).lower()


def _password(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return {"password": file.read_text("utf-8").strip()}
    except OSError as error:
        raise StartupError(
            f"log.redis_password_file {file} cannot be read: {error.strerror}."
        ) from error


def _connection_options(timeout: float) -> dict[str, Any]:
    """Disables the client's retries: only the caller knows which operations it can repeat."""
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "protocol": 2,
    }
