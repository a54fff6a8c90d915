"""Reads entries: decodes each, and checks it against those before it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import structlog

from errata.errors import ImpossibleEntryError, UnavailableError
from errata.log.chain import ChainedEntry
from errata.log.entries import Entry
from errata.log.fold import LogFold
from errata.log.payload_convert import decode

_log = structlog.get_logger(__name__)


class EntryReader:
    """The way of every process from the log's bytes to entries that it can apply.

    All readers take and skip the same entries, and stop at the same one (P7).

    Attributes:
        fold: all entries that were read.
    """

    def __init__(self, voided_seqs: Callable[[], Awaitable[Collection[int]]]) -> None:
        """Starts before the first entry.

        Args:
            voided_seqs: asks the log service which entries are voided; it is called only at an
                entry that cannot be applied. May raise UnavailableError.
        """
        self.fold = LogFold()
        self._voided_seqs = voided_seqs

    async def read(self, stored: ChainedEntry) -> Entry | None:
        """The next entry; None if a later entry voids it.

        Raises:
            PreconditionError: this version does not know the entry's kind.
            ImpossibleEntryError: the entry contradicts those before it and is not voided, as far as
                the log service can tell. The same call can succeed later.
        """
        try:
            entry = decode(stored)
            self.fold.add(entry)
        except ImpossibleEntryError as error:
            if stored.seq not in await self._voided(error):
                raise
            _log.warning("skipping a voided entry", seq=stored.seq)
            self.fold.skip(stored.seq, error.metadata["problem"])
            return None
        return entry

    async def _voided(self, error: ImpossibleEntryError) -> Collection[int]:
        try:
            return await self._voided_seqs()
        except UnavailableError:
            raise error from None
