"""`errata log repair`: voids an entry at which every reader of the log stops."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from errata.errors import InvalidRequestError, NotFoundError, PreconditionError
from errata.launch.box import Box, free_addresses
from errata.log.entries import EntryVoided
from errata.log.history import LogState
from errata.platform.server import open_channel
from errata.platform.settings import Settings
from errata.writer.log_client import LogClient


@contextmanager
def running_log(settings: Settings, data_dir: Path | None, address: str) -> Iterator[str]:
    """The address of the log service.

    Args:
        settings: name the address unless one is given.
        data_dir: starts the log service of this folder and ends it afterwards; None expects a
            running one.
        address: `host:port`; empty takes that of the settings.

    Raises:
        StartupError: a system already uses the folder, or its log does not start.
    """
    if data_dir is None:
        yield address or settings.log.address
        return
    has_own_redis = "redis_url" not in settings.log.model_fields_set
    box = Box(
        {"data_dir": data_dir, **free_addresses()},
        redis_url=None if has_own_redis else settings.log.redis_url,
    )
    try:
        box.start_log()
        yield box.settings.log.address
    finally:
        box.stop()


async def repair_entry(
    address: str, seq: int, reason: str, author: str, confirm: Callable[[str], None]
) -> int:
    """Voids an entry, and returns the position of the entry that does.

    Args:
        address: `host:port` of the log service.
        seq: of the entry to void.
        reason: kept in the log.
        author: kept in the log.
        confirm: is told what the entry contradicts, before anything changes; raises to give up.

    Raises:
        PreconditionError: the entry can be applied, or is voided already.
        NotFoundError: there is no such entry.
        InvalidRequestError: no reason.
        LogUnavailableError: the log service cannot be reached.
    """
    if not reason.strip():
        raise InvalidRequestError("give a --reason, which is kept in the log.", field="reason")
    async with open_channel(address) as channel:
        log = LogClient(channel, f"errata log repair on {socket.gethostname()}")
        confirm(_problem(await log.state(), seq))  # a refused repair must not fence the writer
        await log.acquire_epoch()
        return await log.append(str(uuid.uuid4()), EntryVoided(seq, reason), author)


def _problem(state: LogState, seq: int) -> str:
    if seq in state.impossible:
        return state.impossible[seq]
    if seq in state.voided:
        raise PreconditionError(f"entry {seq} is voided already; nothing was changed.", seq=seq)
    if not 1 <= seq <= state.head.seq:
        raise NotFoundError(
            f"there is no entry {seq}; the log ends at {state.head.seq}. Nothing was changed.",
            seq=seq,
        )
    raise PreconditionError(
        f"entry {seq} can be applied, so it cannot be voided; nothing was changed. To undo a "
        "commit, revert its edits.",
        seq=seq,
    )
