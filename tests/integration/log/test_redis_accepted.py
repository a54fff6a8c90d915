"""P2: which Redis a log service accepts, and what it says of one that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from errata.errors import StartupError
from errata.log.store import RedisLog
from errata.platform.settings import LogSettings
from tests.integration.log.harness import RedisServer, log_settings

pytestmark = pytest.mark.promise("P2")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("appendonly", "no"),
        ("appendfsync", "everysec"),
        ("no-appendfsync-on-rewrite", "yes"),
        ("maxmemory-policy", "allkeys-lru"),
    ],
)
async def test_redis_that_would_lose_entries_is_refused(
    settings: LogSettings, redis_server: RedisServer, name: str, value: str
) -> None:
    redis_server.client.config_set(name, value)
    with pytest.raises(StartupError, match=f"{name} {value}.*CONFIG SET {name}"):
        await RedisLog.open(settings)
    assert redis_server.client.dbsize() == 0


async def test_an_unsafe_redis_may_be_allowed_and_is_warned_of(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    redis_server.client.config_set("appendfsync", "everysec")
    with structlog.testing.capture_logs() as events:
        log = await RedisLog.open(settings.model_copy(update={"allow_unsafe_redis": True}))
    await log.close()
    assert any("allow_unsafe_redis" in event["event"] for event in events)


async def test_the_password_may_stand_in_a_file(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    server.start()
    server.client.config_set("requirepass", "secret")
    try:
        settings = log_settings(server, tmp_path / "witness")
        file = tmp_path / "password"
        given = settings.model_copy(update={"redis_password_file": file})
        with pytest.raises(StartupError, match="redis_password_file"):
            await RedisLog.open(given)
        file.write_text("wrong\n")
        with pytest.raises(StartupError, match="password"):
            await RedisLog.open(given)
        file.write_text("secret\n")
        log = await RedisLog.open(given)
        await log.close()
    finally:
        server.close()


async def test_hidden_configuration_is_warned_of(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", "--rename-command", "CONFIG", "")
    server.start()
    try:
        with structlog.testing.capture_logs() as events:
            log = await RedisLog.open(log_settings(server, tmp_path / "witness"))
        await log.close()
    finally:
        server.close()
    assert any("CONFIG is forbidden" in event["event"] for event in events)


async def test_redis_down_at_the_start_is_said_plainly(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    redis_server.kill()
    with pytest.raises(StartupError, match=f"127.0.0.1:{redis_server.port}") as caught:
        await RedisLog.open(settings)
    assert "log.redis_url" in caught.value.message


async def test_bad_redis_url_is_said_plainly(tmp_path: Path) -> None:
    settings = LogSettings(redis_url="http://nowhere", witness_path=tmp_path / "witness")
    with pytest.raises(StartupError, match="redis_url"):
        await RedisLog.open(settings)
