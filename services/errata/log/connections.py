"""Connections to the log's Redis: to one server, or to the primary that Sentinels name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from errata.errors import StartupError
from errata.platform.addresses import host_and_port
from errata.platform.settings import LogSettings

MAX_CONNECTIONS = 32
_OF_THE_DATABASE = ("db", "username", "password")


class Connections:
    """Two clients of the log's Redis; none connects before its first command.

    With Sentinels, each new connection asks them for the primary. A connection to a server that was
    demoted ends with its first refused write.

    Attributes:
        client: for commands.
        tail: for blocking reads, which occupy their connection and wait longer than any command.
        address: of the Redis, for messages.
    """

    def __init__(self, settings: LogSettings) -> None:
        """Prepares both.

        Raises:
            StartupError: the URL is not one of Redis, or a password's file cannot be read.
        """
        self._sentinels: list[Redis] = []
        timeout = settings.redis_timeout_seconds
        password = _password("redis_password_file", settings.redis_password_file)
        common, tail = _options(timeout), _options(timeout + 2.0)
        try:
            parsed: dict[str, Any] = dict(parse_url(settings.redis_url))
        except ValueError as error:
            raise StartupError(f"log.redis_url is not a Redis URL: {error}.") from error
        if settings.redis_sentinels:
            addresses = [host_and_port(each) for each in settings.redis_sentinels.split(",")]
            own = {name: parsed[name] for name in _OF_THE_DATABASE if name in parsed} | password
            if settings.redis_url.startswith("rediss:"):
                own["ssl"] = True
            asked = {**common, **_sentinel_login(settings)}
            sentinel: Any = cast(Any, Sentinel)(addresses, sentinel_kwargs=asked)
            self._sentinels = sentinel.sentinels
            service = settings.redis_service
            self.client: Redis = sentinel.master_for(service, **own, **common)
            self.tail: Redis = sentinel.master_for(service, **own, **tail)
            self.address = f"{service} (Sentinel {settings.redis_sentinels})"
            return
        self.client = Redis.from_pool(
            BlockingConnectionPool.from_url(
                settings.redis_url,
                max_connections=MAX_CONNECTIONS,
                timeout=timeout,
                **password,
                **common,
            )
        )
        self.tail = Redis.from_url(settings.redis_url, **password, **tail)
        self.address = str(parsed.get("path") or f"{parsed.get('host')}:{parsed.get('port', 6379)}")

    async def close(self) -> None:
        """Closes every connection."""
        for client in (self.tail, self.client, *self._sentinels):
            await client.aclose()


def _sentinel_login(settings: LogSettings) -> dict[str, Any]:
    user = {"username": settings.redis_sentinel_user} if settings.redis_sentinel_user else {}
    name = "redis_sentinel_password_file"
    return user | _password(name, settings.redis_sentinel_password_file)


def _password(setting: str, file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return {"password": file.read_text("utf-8").strip()}
    except OSError as error:
        raise StartupError(f"log.{setting} {file} cannot be read: {error.strerror}.") from error


def _options(timeout: float) -> dict[str, Any]:
    """Disables the client's retries: only the caller knows which operations it can repeat."""
    return {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "protocol": 2,
    }
