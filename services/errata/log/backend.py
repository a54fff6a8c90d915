"""Redis as the log uses it: four operations, each one atomic script, and typed errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
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

from errata.errors import (
    EpochLostError,
    ErrataError,
    LimitExceededError,
    LogUnavailableError,
    RequestIdReusedError,
    StartupError,
)
from errata.log.chain import ORIGIN, Entry, Position
from errata.platform.settings import LogSettings

MAX_CONNECTIONS = 32

# What acknowledged entries rely on. Anything else loses them in silence.
REQUIRED_CONFIG = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}

_log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """What the append script decided; nothing was written but for OK (and DUP's counter)."""

    OK = "OK"
    DUPLICATE = "DUP"
    CONFLICT = "CONFLICT"
    FENCED = "FENCED"
    TOO_BIG = "TOOBIG"
    MOVED = "MOVED"
    FOREIGN = "FOREIGN"


@dataclass(frozen=True, slots=True)
class AppendCommand:
    """One append as the script gets it; `head` and `new` are before and after it."""

    log_id: str
    epoch: int
    request_id: str
    content_digest: bytes
    payload: bytes
    head: Position
    new: Position
    max_payload_bytes: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What Redis holds, all of one instant, not yet verified.

    Attributes:
        floor_seq: the first retained entry, or head + 1 if none is.
        base: what the first of `entries` says it continues; None without entries.
    """

    log_id: str
    head: Position
    epoch: int
    floor_seq: int
    base: Position | None
    entries: tuple[Entry, ...]


def refusal(outcome: Outcome, number: int, command: AppendCommand) -> ErrataError:
    """The error for an append that the script refused for the caller's sake."""
    match outcome:
        case Outcome.FENCED:
            return EpochLostError(
                f"epoch {command.epoch} is not in force, {number} is: another writer took over. "
                "Nothing was appended; acquire a new epoch to write again.",
                epoch=command.epoch,
                current_epoch=number,
            )
        case Outcome.CONFLICT:
            return RequestIdReusedError(
                f"request id {command.request_id} made entry {number} from other content. Use a "
                "new id for a new request.",
                field="request_id",
                first_seq=number,
            )
        case _:
            return LimitExceededError(
                f"the entry has {number:,} bytes; the limit is {command.max_payload_bytes:,}. "
                "Split the request.",
                field="payload",
                size_bytes=number,
                max_payload_bytes=command.max_payload_bytes,
            )


class _Script:
    """A script, sent by digest and again in full if Redis forgot it."""

    def __init__(self, name: str) -> None:
        self.source = files("errata.log").joinpath(name).read_text("utf-8")
        self.sha = hashlib.sha1(self.source.encode()).hexdigest()


class RedisBackend:
    """The log's keys in one Redis. Knows no history; `RedisLog` judges what this returns.

    Every method raises `LogUnavailableError` if Redis does not answer in time: what it was asked
    may or may not have been done.
    """

    def __init__(self, settings: LogSettings) -> None:
        """Prepares connections; makes none."""
        # Braces keep the keys in one slot of a Redis Cluster, as scripts need.
        prefix = f"{{{settings.key_prefix}}}"
        self._stream, self._head = f"{prefix}:stream", f"{prefix}:head"
        self._requests = f"{prefix}:requests"
        self._append = _Script("append.lua")
        self._acquire = _Script("acquire.lua")
        self._read = _Script("read.lua")
        timeout = settings.redis_timeout_seconds
        self._timeout = timeout
        self._allow_unsafe = settings.allow_unsafe_redis
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
            raise StartupError(f"log.redis_url is no Redis URL: {error}.") from error
        self._client = Redis.from_pool(pool)
        # A blocked read holds its connection, and waits longer than any other call may.
        self._tail = Redis.from_url(
            settings.redis_url, **password, **_connection_options(timeout + 2.0)
        )
        options = pool.connection_kwargs
        self.address = str(
            options.get("path") or f"{options.get('host')}:{options.get('port', 6379)}"
        )

    async def check_configuration(self) -> None:
        """Refuses a Redis that would lose acknowledged entries.

        Raises:
            StartupError: names the setting and the remedy.
        """
        with self._failures():
            try:
                found: dict[str | None, str | None] = {}
                for name in REQUIRED_CONFIG:  # one by one: Redis 6 takes no more at once
                    found |= await self._client.config_get(name)
            except ResponseError as error:
                if not _is_config_hidden(error):
                    raise
                _log.warning(
                    "CONFIG is forbidden here: nobody checks that Redis is durable",
                    redis=self.address,
                    required=REQUIRED_CONFIG,
                )
                return
        for name, wanted in REQUIRED_CONFIG.items():
            value = found.get(name)
            if value != wanted:
                problem = (
                    f"Redis at {self.address} has {name} {value}, and the log would lose "
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
        """Makes an empty log; a log that is there stays as it is, whoever made it."""
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

        Always at least one entry if it is there, however big.
        """
        reply = await self._run(
            self._read, (self._stream, self._head), (from_seq, max_entries, max_bytes)
        )
        if reply is None:
            return None
        log_id, seq, digest, epoch, floor, rows = reply
        base = Position(from_seq - 1, rows[0][1]) if rows else None
        entries = tuple(
            Entry(number, payload, stored)
            for number, (payload, _, stored) in enumerate(rows, start=from_seq)
        )
        head = Position(int(seq), digest)
        return Reading(log_id.decode(), head, int(epoch), int(floor), base, entries)

    async def append(self, command: AppendCommand) -> tuple[Outcome, int]:
        """Runs the append script.

        Returns:
            The outcome, and the number that it is about: the entry's seq (OK, DUP, CONFLICT),
            the head's (MOVED), the epoch in force (FENCED), the size (TOO_BIG), else 0.

        Raises:
            LimitExceededError: Redis is out of memory; nothing was written.
        """
        arguments = (
            command.log_id,
            command.epoch,
            command.request_id,
            command.content_digest,
            command.head.seq,
            command.head.chain_digest,
            command.payload,
            command.new.seq,
            command.new.chain_digest,
            command.max_payload_bytes,
        )
        keys = (self._stream, self._head, self._requests)
        reply = await self._run(self._append, keys, arguments)
        return Outcome(reply[0].decode()), int(reply[1]) if len(reply) > 1 else 0

    async def acquire_epoch(self, log_id: str, writer: str) -> int | None:
        """The next epoch; None if Redis holds another log, or none."""
        reply = await self._run(self._acquire, (self._head,), (log_id, writer))
        return int(reply[1]) if reply[0] == b"OK" else None

    async def wait_beyond(self, seq: int, seconds: float) -> int | None:
        """Waits for an entry after `seq`; its number, or None if none came in time."""
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
            except NoScriptError:  # nothing ran: Redis restarted, or SCRIPT FLUSH
                return await client.eval(script.source, len(keys), *values)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError, TimeoutError) as error:
            if _is_out_of_memory(error):
                raise LimitExceededError(
                    f"Redis at {self.address} is at its maxmemory; nothing was appended. Give it "
                    "more memory; the same request id works afterwards."
                ) from error
            cause = str(error).rstrip(".") or type(error).__name__
            raise LogUnavailableError(
                f"Redis at {self.address} failed: {cause}. "
                "Nothing was acknowledged; retry with the same request id."
            ) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Redis before 7 puts the error of a script's command into the script's own."""
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
    """No hidden retries: after a break the outcome is unknown, and only we know what is safe."""
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "protocol": 2,
    }
