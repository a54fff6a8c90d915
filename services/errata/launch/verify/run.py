"""Runs a verification: reads a source, and compares it with what else has seen the log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import IO

from errata.artifacts.store import ArtifactStore
from errata.errors import StartupError
from errata.launch.verify.report import Verification
from errata.launch.verify.sources import (
    entries_in_file,
    entries_in_redis,
    exported,
    redis_of_box,
    start_of,
)
from errata.launch.verify.verifier import Verifier
from errata.log.chain import ChainedEntry, Position
from errata.log.witness import read_witness
from errata.platform.settings import LogSettings, Settings, masked
from errata.replica.commit_gate import read_pins


async def verify(
    settings: Settings, *, file: Path | None, from_box: bool, export: Path | None
) -> Verification:
    """Verifies a log and its artifacts; no service needs to run.

    Args:
        settings: name the artifact store, the Redis or the folder of a box, and the pinned keys
            of the workers.
        file: exported entries; None reads a Redis.
        from_box: whether to read the Redis of the box in data_dir instead of log.redis_url.
        export: receives the entries that were read.

    Raises:
        InvalidRequestError, StartupError: the source, or a file, cannot be used.
        LogUnavailableError: Redis does not answer.
    """
    max_bytes = settings.artifacts.max_bytes
    store = ArtifactStore(settings.artifacts_url, max_bytes=max_bytes)
    verifier = Verifier(store, max_bytes=max_bytes, pins=read_pins(settings.worker))
    async with AsyncExitStack() as held:
        if export is not None:
            written = held.enter_context(_created(export))
        else:
            written = None
        if file is not None:
            await _take_all(verifier, entries_in_file(file), {}, written)
            return verifier.report(str(file))
        log = await held.enter_async_context(redis_of_box(settings)) if from_box else settings.log
        seen = await _seen(log)
        await _take_all(verifier, entries_in_redis(log, store), seen, written)
        return verifier.report(str(settings.data_dir) if from_box else masked(log.redis_url))


async def _seen(log: LogSettings) -> dict[Position, str]:
    """Positions that others have seen, and who: Redis itself, and the witness of this log."""
    start = await start_of(log)
    seen = {start.head: "the head in Redis"}
    witness = read_witness(log.witness_path)
    if witness is not None and witness.log_id == start.log_id:
        seen[witness.head] = f"the witness {log.witness_path}"
    return {position: who for position, who in seen.items() if position.seq > 0}


async def _take_all(
    verifier: Verifier,
    entries: AsyncGenerator[ChainedEntry, None],
    seen: Mapping[Position, str],
    written: IO[str] | None,
) -> None:
    """Takes every entry; `seen` are the positions that the log must contain."""
    open_positions = dict(seen)
    async with aclosing(entries):
        async for entry in entries:
            if written is not None:
                exported(entry, written)
            await verifier.take(entry)
            for position in [p for p in open_positions if p.seq <= entry.seq]:
                verifier.expect(position, open_positions.pop(position))
    for position, who in open_positions.items():
        verifier.expect(position, who)


def _created(path: Path) -> IO[str]:
    try:
        return path.open("x", encoding="utf-8")
    except OSError as error:
        raise StartupError(
            f"the export {path} cannot be written: {error.strerror}. Name a new file."
        ) from error
