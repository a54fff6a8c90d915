"""A log that was restored for another base model: refused at the start, with what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from errata.errors import StartupError
from errata.launch.backup.create import back_up
from errata.launch.backup.folder import BackupFolder
from errata.launch.backup.restore import restore
from errata.launch.box import Box, free_addresses
from errata.launch.ports import with_flags
from errata.platform.settings import load_settings
from tests.integration.log import entries as made
from tests.integration.log.harness import RedisServer, log_settings, running_log


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """One kind of server is enough here: it only serves the backup."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ({}, "but the log for abab.*Start with the model that the log was made with"),
        ({"read_only_at": 1}, "load the model and dtype that the log was made with"),
    ],
)
async def test_a_log_for_another_base_model_does_not_start(
    redis_server: RedisServer, tmp_path: Path, log: dict[str, Any], says: str
) -> None:
    folder = BackupFolder(str(tmp_path / "backup"), max_artifact_bytes=1_000_000)
    async with running_log(log_settings(redis_server, tmp_path / "witness")) as running:
        await made.append(running, await running.acquire(), made.lane("lanes/main"))
        await back_up(running.address, folder, max_artifact_bytes=1_000_000)
    settings = load_settings({"data_dir": tmp_path / "new"})
    await asyncio.to_thread(restore, folder, settings, None)
    flags = with_flags({"data_dir": tmp_path / "new"}, free_addresses())
    flags = with_flags(flags, {"log": log})
    with pytest.raises(StartupError, match=says), Box(flags):
        pass
