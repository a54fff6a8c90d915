"""Reads entries: decodes each, and checks it against those before it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import structlog

from errata.errors import ImpossibleEntryError, LogBehindWitnessError, UnavailableError
from errata.log.chain import ChainedEntry
from errata.log.entries import Entry, SnapshotTaken
from errata.log.fold import LogFold
from errata.log.payload_convert import decode

_log = structlog.get_logger(__name__)


class EntryReader:
    """The way of every process from the log's bytes to entries that it can apply.

    All readers take and skip the same entries, and stop at the same one (P7).

    Attributes:
        fold: all entries that were read, or that the snapshot holds from which reading began.
        voided_seqs: asks the log service which entries are voided.
    """

    def __init__(self, voided_seqs: Callable[[], Awaitable[Collection[int]]]) -> None:
        """Starts before the first entry.

        Args:
            voided_seqs: asks the log service which entries are voided; it is called only at an
                entry that cannot be applied. May raise UnavailableError.
        """
        self.fold = LogFold()
        self.voided_seqs = voided_seqs
        self._unconfirmed: SnapshotTaken | None = None

    def begin(self, fold: LogFold, named: SnapshotTaken) -> None:
        """Starts behind a snapshot instead of before the first entry.

        Args:
            fold: of the snapshot; it stays as it is, for a writer restores the lanes only later.
            named: the entry that names it, as the log service told; `read` must come upon it.
        """
        self.fold, self._unconfirmed = fold.copy(), named

    def check_confirmed(self) -> None:
        """Returns if an entry that was read names the snapshot from which reading began.

        Raises:
            LogBehindWitnessError: no entry up to the log's head names it.
        """
        if self._unconfirmed is not None:
            raise _not_named(self._unconfirmed)

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
        self._confirm(entry)
        return entry

    def _confirm(self, entry: Entry) -> None:
        named, found = self._unconfirmed, entry.payload
        if named is None or not isinstance(found, SnapshotTaken) or found.seq < named.seq:
            return
        if found != named:
            raise _not_named(named)
        self._unconfirmed = None

    async def _voided(self, error: ImpossibleEntryError) -> Collection[int]:
        try:
            return await self.voided_seqs()
        except UnavailableError:
            raise error from None


def _not_named(named: SnapshotTaken) -> LogBehindWitnessError:
    return LogBehindWitnessError(
        f"the log service offered a snapshot at entry {named.seq} that no entry of the log names; "
        "this process must not serve from it. Check the log service, and run `errata verify`.",
        seq=named.seq,
        manifest=named.manifest.digest,
    )
