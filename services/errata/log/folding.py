"""Folds entries as they are stored: an entry that cannot be is passed over."""

from __future__ import annotations

import structlog

from errata.errors import ImpossibleEntryError
from errata.log.chain import ChainedEntry
from errata.log.entries import Entry
from errata.log.fold import LogFold
from errata.log.payload_convert import decode

_log = structlog.get_logger(__name__)


def fold_stored(fold: LogFold, stored: ChainedEntry) -> Entry | None:
    """Folds the next entry in; returns it, or None if it cannot be applied and was skipped.

    Raises:
        PreconditionError: a kind that only newer versions know; the fold is unchanged.
    """
    try:
        entry = decode(stored)
        fold.add(entry)
    except ImpossibleEntryError as error:
        _log.critical("an entry cannot be applied", seq=stored.seq, reason=error.message)
        fold.skip(stored.seq, error.metadata["problem"])
        return None
    return entry
