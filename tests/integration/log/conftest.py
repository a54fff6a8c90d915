from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from errata.artifacts import ArtifactStore
from errata.platform.settings import LogSettings
from tests.integration.log.harness import (
    RedisServer,
    RunningLog,
    log_settings,
    running_log,
    servers,
)
from tests.integration.log.trimming import store_of


@pytest.fixture(params=servers())
def redis_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", executable=servers()[request.param])
    server.start()
    yield server
    server.close()


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> LogSettings:
    return log_settings(redis_server, tmp_path / "witness")


@pytest_asyncio.fixture
async def log(settings: LogSettings) -> AsyncIterator[RunningLog]:
    async with running_log(settings) as running:
        yield running


@pytest.fixture
def store(settings: LogSettings) -> ArtifactStore:
    return store_of(settings)
