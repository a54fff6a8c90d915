"""A real Redis, a real log service, and catalogs that follow it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from errata.platform.settings import LogSettings
from tests.integration.catalog.rig import Rig
from tests.integration.log.harness import RedisServer, log_settings, running_log


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.close()


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> LogSettings:
    return log_settings(redis_server, tmp_path / "witness")


@pytest_asyncio.fixture
async def rig(settings: LogSettings, tmp_path: Path) -> AsyncIterator[Rig]:
    async with running_log(settings) as log:
        yield await Rig.on(log, tmp_path)
