"""The stack that all tests of this folder share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from errata.artifacts.store import ArtifactStore
from errata.platform.settings import LogSettings
from tests.integration.log.harness import RedisServer, log_settings, running_log
from tests.integration.retrieval.stack import Stack


@pytest_asyncio.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    redis = RedisServer(tmp_path / "redis")
    redis.start()
    settings: LogSettings = log_settings(redis, tmp_path / "witness")
    store = ArtifactStore(str(tmp_path / "artifacts"))
    try:
        async with running_log(settings, store) as log:
            yield Stack(log.address, tmp_path, redis)
    finally:
        redis.close()
