"""Fixtures of the directed checks, and the guard that they test the package they are meant to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

import errata
from errata.artifacts.store import ArtifactStore
from errata.platform.failpoints import configure_failpoints
from errata.platform.settings import LogSettings
from tests.integration.log.conftest import log as log
from tests.integration.log.conftest import settings as settings
from tests.integration.log.harness import RedisServer, running_log
from tests.integration.retrieval.stack import Stack
from tests.robustness.shim import Shim

PACKAGE = "ROBUSTNESS_PACKAGE"
"""Names the folder of the package that must be under test, such as a copy with a planted bug."""


def pytest_configure() -> None:
    wanted = os.environ.get(PACKAGE)
    assert not wanted or str(errata.__file__).startswith(wanted), errata.__file__


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    configure_failpoints("")


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.close()


@pytest_asyncio.fixture
async def stack(
    redis_server: RedisServer, settings: LogSettings, tmp_path: Path
) -> AsyncIterator[Stack]:
    store = ArtifactStore(str(tmp_path / "artifacts"))
    async with running_log(settings, store) as running:
        yield Stack(running.address, tmp_path, redis_server)


@pytest.fixture
def shim(tmp_path: Path) -> Shim:
    return Shim(tmp_path / "shim", seed=1, tears=False)
