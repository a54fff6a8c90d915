"""Forgets the request ids of archived entries that are older than the horizon."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

import structlog

from errata.errors import ErrataError
from errata.log.archive.records import Records
from errata.log.chain import ChainedEntry
from errata.log.payload_convert import decode

_STEP = 500  # ids in one script: Redis does nothing else meanwhile
_PAGE_BYTES = 2 * 1024 * 1024

_log = structlog.get_logger(__name__)


async def forget_requests(records: Records, older_than: datetime) -> datetime | None:
    """Forgets the ids of archived entries, in order, up to the first that is not so old.

    Args:
        records: of the log.
        older_than: entries of this time and later keep their ids.

    Returns:
        The time of the first archived entry that keeps its id; None if there is none.

    Raises:
        PreconditionError, ArtifactCorruptError, UnavailableError: the archive cannot be read.
        LogUnavailableError: Redis does not answer. The next call goes on where this one ended.
    """
    reading = await records.backend.read(1, 0, _PAGE_BYTES)
    while reading is not None and reading.forgotten_seq < reading.floor.seq and reading.archive:
        page = await records.read(reading.forgotten_seq + 1, _STEP, _PAGE_BYTES)
        if page is None:
            return None
        # In a thread, so that appends go on meanwhile.
        old, kept = await asyncio.to_thread(_older, page.entries, older_than)
        if not old:
            return kept
        through = old[-1][1]
        if not await records.backend.forget(reading, through, old):
            return None
        _log.debug("trim", step="request ids forgotten", to_seq=through)
        if kept is not None:
            return kept
        reading = await records.backend.read(1, 0, _PAGE_BYTES)
    return None


def _older(
    entries: Sequence[ChainedEntry], than: datetime
) -> tuple[list[tuple[str, int]], datetime | None]:
    """Request ids and positions of the entries before `than`, and the time of the first other."""
    old: list[tuple[str, int]] = []
    for stored in entries:
        try:
            entry = decode(stored)
        except ErrataError:  # its id is not known, and stays
            old.append(("", stored.seq))
            continue
        if entry.append_time >= than:
            return old, entry.append_time
        old.append((entry.request_id, stored.seq))
    return old, None
