"""Where a verification reads the log: an exported file, a Redis, or the folder of a box."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

from errata.artifacts import ArtifactStore
from errata.errors import InvalidRequestError, LogUnavailableError, StartupError
from errata.launch.processes import Process
from errata.launch.redis import redis_command
from errata.log.archive.records import Records
from errata.log.backend import Reading, RedisBackend
from errata.log.chain import ChainedEntry
from errata.log.history import MAX_PAGE_BYTES
from errata.platform.addresses import free_port
from errata.platform.settings import LogSettings, Settings

_PAGE_ENTRIES = 1_000
_START_SECONDS = 60.0


async def entries_in_file(path: Path) -> AsyncGenerator[ChainedEntry, None]:
    """The entries of a file that `exported` wrote.

    Raises:
        InvalidRequestError: the file cannot be read, or a line is not an entry.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield _entry_of(line, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"the export {path} cannot be read: {error}.") from error


def exported(entry: ChainedEntry, file: IO[str]) -> None:
    """Writes an entry as one line of JSON."""
    line = {
        "seq": entry.seq,
        "payload": base64.b64encode(entry.payload).decode(),
        "chain_digest": entry.chain_digest.hex(),
    }
    file.write(json.dumps(line) + "\n")


async def start_of(settings: LogSettings) -> Reading:
    """Identity and head of a log in Redis, which need not belong to a running service.

    Raises:
        StartupError: the Redis holds no log, or its beginning was trimmed without an archive.
        LogUnavailableError: Redis does not answer.
    """
    backend = RedisBackend(settings)
    try:
        return _check(await backend.read(1, 0, MAX_PAGE_BYTES), backend)
    finally:
        await backend.close()


async def entries_in_redis(
    settings: LogSettings, store: ArtifactStore
) -> AsyncGenerator[ChainedEntry, None]:
    """The entries of a log in Redis, and before them those in its archive.

    Raises:
        StartupError, LogUnavailableError: as `start_of`.
        PreconditionError, ArtifactCorruptError, UnavailableError: the archive cannot be read.
    """
    backend = RedisBackend(settings)
    records = Records(backend, store)
    try:
        seq = 1
        while True:
            reading = _check(await records.read(seq, _PAGE_ENTRIES, MAX_PAGE_BYTES), backend)
            for entry in reading.entries:
                yield entry
            seq += len(reading.entries)
            if seq > reading.head.seq or not reading.entries:
                return
    finally:
        await backend.close()


@asynccontextmanager
async def redis_of_box(settings: Settings) -> AsyncIterator[LogSettings]:
    """Settings of a Redis that serves a copy of a box's data until the context ends.

    Raises:
        StartupError: the folder holds no log of a box, or the Redis does not start.
    """
    folder = settings.data_dir / "redis"
    if not folder.is_dir():
        raise StartupError(
            f"{settings.data_dir} holds no log; name a data_dir (--data-dir), a Redis "
            "(--redis-url) or an exported file."
        )
    with tempfile.TemporaryDirectory(prefix="errata-verify-") as name:
        copy, port = Path(name) / "redis", free_port()
        await asyncio.to_thread(shutil.copytree, folder, copy)
        with _running(redis_command(port, copy), Path(name)) as process:
            log = settings.log.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"})
            await _until_loaded(log, process)
            yield log


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[Process]:
    process = Process.start("redis", command, {}, folder / "redis.log")
    try:
        yield process
    finally:
        process.stop(10.0)


async def _until_loaded(settings: LogSettings, process: Process) -> None:
    backend = RedisBackend(settings)
    try:
        async with asyncio.timeout(_START_SECONDS):
            while True:
                try:
                    await backend.read(1, 0, MAX_PAGE_BYTES)
                    return
                except LogUnavailableError:  # it is still starting, or reading its file
                    if not process.running:
                        raise process.ended() from None
                    await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise StartupError(
            f"the Redis of the copy was not ready after {_START_SECONDS:.0f} s:\n{process.tail()}"
        ) from error
    finally:
        await backend.close()


def _check(reading: Reading | None, backend: RedisBackend) -> Reading:
    if reading is None:
        raise StartupError(
            f"Redis at {backend.address} holds no log under log.key_prefix; correct "
            "log.redis_url or log.key_prefix."
        )
    if reading.floor_seq > 1 and reading.archive is None:
        raise StartupError(
            f"the log begins at entry {reading.floor_seq}: trust and chain cannot be checked from "
            "their beginning. Verify an export that holds all entries."
        )
    return reading


def _entry_of(line: str, where: str) -> ChainedEntry:
    try:
        values = json.loads(line)
        return ChainedEntry(
            int(values["seq"]),
            base64.b64decode(values["payload"], validate=True),
            bytes.fromhex(values["chain_digest"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequestError(
            f"{where} is not an exported entry; `errata verify --export FILE` writes such files."
        ) from error
