"""An entry that cannot be: who stops there says what to do, and that command heals the log."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from errata.launch.box import free_addresses
from errata.log.convert import new_entry
from errata.log.store import RedisLog
from errata.platform.settings import LogSettings
from tests.command_line import run_here
from tests.integration.log.entries import message, revert
from tests.integration.log.harness import (
    LogProcess,
    RedisServer,
    append_request,
    log_settings,
    smuggle,
)
from tests.ports import address_variables

BAD = 2


async def _made(settings: LogSettings) -> None:
    log = await RedisLog.open(settings)
    await log.append(new_entry(append_request(await log.acquire_epoch("test"))))
    await log.close()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.close()


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> LogSettings:
    """Of a log whose second entry reverts an edit that does not exist."""
    settings = log_settings(redis_server, tmp_path / "data" / "witness")
    asyncio.run(_made(settings))
    bad = message(revert("edits/9-9")).SerializeToString()
    assert smuggle(redis_server, bad) == BAD
    return settings


@pytest.fixture
def environment(settings: LogSettings, tmp_path: Path) -> dict[str, str]:
    return {
        "ERRATA_DATA_DIR": str(tmp_path / "data"),
        "ERRATA_LOG__REDIS_URL": settings.redis_url,
        **address_variables(free_addresses()),
    }


def _repair(environment: dict[str, str], *options: str, seq: int = BAD) -> tuple[int, str]:
    command = ["log", "repair", "--seq", str(seq), "--reason", "smuggled", *options]
    done = run_here(command, environment)
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_the_writer_says_what_to_do_and_starts_after_it(
    settings: LogSettings, environment: dict[str, str]
) -> None:
    log = LogProcess(settings)
    asyncio.run(log.start())
    environment["ERRATA_LOG__ADDRESS"] = log.address
    try:
        done = run_here(["serve", "writer"], environment)
        assert done.returncode == 1
        assert "IMPOSSIBLE_ENTRY" in done.stderr
        assert f"errata log repair --seq {BAD}" in done.stderr
        assert "Traceback" not in done.stderr
        code, said = _repair(environment, "--yes", "--log", log.address)
        assert (code, said) == (0, f"entry {BAD} is voided by entry {BAD + 1}; start what ended")
        code, said = _repair(environment, "--yes")  # the settings name the log service, too
        assert code == 1
        assert "voided already" in said
        done = run_here(["serve", "writer"], environment)
        assert "IMPOSSIBLE_ENTRY" not in done.stderr
        assert "BASE_MODEL_MISMATCH" in done.stderr, "it has read the log to its end"
    finally:
        log.kill()


def test_a_refused_repair_leaves_the_log_and_the_epoch(
    settings: LogSettings,
    environment: dict[str, str],
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = LogProcess(settings)
    asyncio.run(log.start())
    try:
        before = redis_server.client.hgetall("{errata}:head")
        for seq, told in ((1, "can be applied"), (9, "the log ends at 2")):
            code, said = _repair(environment, "--yes", "--log", log.address, seq=seq)
            assert code == 1
            assert told in said
        monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
        code, said = _repair(environment, "--log", log.address)
        assert code == 1
        assert "edits/9-9" in said
        assert "writer ends" in said
        assert redis_server.client.hgetall("{errata}:head") == before
    finally:
        log.kill()


def test_a_system_that_does_not_start_is_repaired_in_its_folder(
    environment: dict[str, str], redis_server: RedisServer, tmp_path: Path
) -> None:
    code, said = _repair(environment, "--yes", "--data-dir", str(tmp_path / "data"))
    assert code == 0, said
    assert redis_server.client.hget("{errata}:head", "seq") == b"3"
