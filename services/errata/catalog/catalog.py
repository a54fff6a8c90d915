"""The catalog: follows the log into its database, and answers from it."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from errata.artifacts.source import ArtifactSource
from errata.catalog.access import Access
from errata.catalog.finding import Found, Search, find
from errata.catalog.happenings import Event
from errata.catalog.reading import EventFilter, events_after, newest_event
from errata.catalog.recorder import Recorder, Taken, head_of
from errata.catalog.shaped import Report, ShapedCount, add_report, shaped_counts
from errata.catalog.sight import Sight
from errata.editing.lane.swap import Change
from errata.errors import ArtifactCorruptError, PreconditionError, SeqTrimmedError
from errata.log.chain import ORIGIN, Position, verify_run
from errata.log.entries import Entry, SnapshotTaken
from errata.log.fold import LogFold
from errata.log.history import LogState
from errata.log.remote import RemoteLog
from errata.log.subscriber import Subscriber
from errata.platform.failpoints import failpoint_async
from errata.platform.paging import page_size
from errata.platform.retry import until_available
from errata.platform.server import open_channel
from errata.platform.settings import CatalogSettings
from errata.replica.apply import PreparedEntry
from errata.replica.commit_gate import CommitGate
from errata.replica.follower import Follower, Tolerance
from errata.replica.records import recorded
from errata.replica.snapshot import LEDGER, Snapshot
from errata.replica.snapshot_parts import load_group, load_snapshot
from errata.writer.ledger_pages import read_ledger

_CHUNK = 500  # entries in one transaction, before the catalog is live

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogPosition:
    """Where the catalog is; it holds no lanes, so its state has no digest.

    Attributes:
        seq: the last entry in the database.
        chain_digest: H(seq), 32 bytes.
        state_digest: empty.
    """

    seq: int
    chain_digest: bytes
    state_digest: str = ""


class Catalog:
    """Follows the log; its database is never behind what it says of its position.

    Attributes:
        name: unique among replicas.
        log_id: of the log that it follows; empty before `start`.
        settings: of the catalog.
        access: to the database.
        version: of the database's content; it grows with each change.
    """

    def __init__(
        self,
        name: str,
        artifacts: ArtifactSource,
        log_address: str,
        file: Path,
        settings: CatalogSettings,
    ) -> None:
        """Opens the database; `start` starts.

        Args:
            name: unique among replicas.
            artifacts: source of snapshots.
            log_address: of the edit log service.
            file: of the database.
            settings: limits, and where a new database begins.

        Raises:
            StartupError: the database, or the file of the pinned keys, cannot be used.
        """
        self.name = name
        self.log_id = ""
        self.version = 0
        self._artifacts = artifacts
        self._log_address = log_address
        self.settings = settings
        self._gate = CommitGate.of(settings)
        self._pins = _digest_of(self._gate)
        self.access = Access(file, settings.num_threads)
        self._recorder = Recorder(self.access.database)
        self._position = CatalogPosition(0, ORIGIN.chain_digest)
        self._events_from = 1
        self._taken: list[Taken] = []
        self._news = asyncio.Condition()
        self._subscriber = Subscriber(log_address)
        self._follower = Follower(
            name,
            "catalog",
            self._subscriber,
            log_address,
            Tolerance(settings.max_lag, settings.max_silence_seconds),
            prepare=self._prepare,
            apply=self._apply,
            current_position=lambda: self._position,
            device_usage=dict,
        )

    @property
    def seq(self) -> int:
        """The last entry in the database."""
        return self._position.seq

    @property
    def events_from(self) -> int:
        """First position whose events are known."""
        return self._events_from

    async def start(self) -> None:
        """Brings the database to the log's head, and follows from then on.

        Raises:
            LogUnavailableError: the log cannot be reached.
            DataLossError: the log contradicts itself or the database, or an entry cannot be read.
            SeqTrimmedError: the log no longer has what the database lacks.
        """
        try:
            state = await until_available(self._log_state, "the log")
            self.log_id = state.log_id
            await self._begin(state)
            await self._follower.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stops following, and waits for running queries."""
        await self._follower.close()
        await self.access.close()

    def check_health(self) -> None:
        """Returns if the catalog may answer; raises as `Follower.check_health`."""
        self._follower.check_health()

    async def reach(self, min_seq: int | None, timeout_seconds: float) -> None:
        """Waits until the database holds `min_seq`; raises as `Follower.reach`."""
        await self._follower.reach(min_seq, timeout_seconds)

    async def find(
        self, search: Search, num: int, token: str, timeout_seconds: float
    ) -> tuple[list[Found], str, int]:
        """A page of edits, the token of the next page, and the position that both are of.

        Raises:
            InvalidRequestError: the text, the order, the size or the token cannot be used.
            DeadlineExceededError: it takes too long.
        """
        size = page_size(num)

        def read(connection: sqlite3.Connection) -> tuple[list[Found], str, int]:
            found, more = find(connection, search, size, token)
            return found, more, _seq_in(connection)

        return await self.access.read(read, timeout_seconds)

    async def shaped(
        self, hours: range, sight: Sight, num: int, token: str, timeout: float
    ) -> tuple[list[ShapedCount], str, int]:
        """A page of counts, the token of the next page, and the catalog's position.

        Raises:
            InvalidRequestError: the size or the token cannot be used.
            DeadlineExceededError: it takes too long.
        """
        size = page_size(num)

        def read(connection: sqlite3.Connection) -> tuple[list[ShapedCount], str, int]:
            return *shaped_counts(connection, hours, sight, size, token), _seq_in(connection)

        return await self.access.read(read, timeout)

    async def events(self, after: int, wanted: EventFilter) -> tuple[list[Event], int, int]:
        """The next events behind an id, the id of the last of all, and the position of both."""

        def read(connection: sqlite3.Connection) -> tuple[list[Event], int, int]:
            found = events_after(connection, after, wanted)
            return found, newest_event(connection), _seq_in(connection)

        return await self.access.read(read)

    async def wait_for_news(self, seen: int, seconds: float) -> None:
        """Returns once the database has another version than `seen`, or after some time."""
        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: self.version != seen)
        except TimeoutError:
            pass

    async def add_report(self, report: Report) -> None:
        """Adds a gateway's counts, once."""
        await self.access.change(
            lambda: add_report(self.access.database, report, self.settings.shaped_days)
        )

    async def note_replicas(self, events: list[Event]) -> None:
        """Adds events of replicas behind all others."""
        await self.access.keep(lambda: self._recorder.note_replicas(events))
        await self._tell()

    async def _begin(self, state: LogState) -> None:
        """Prepares database and follower for the entries that the log streams."""
        held = await self.access.change(lambda: self.access.database.held)
        if (held.log_id, held.pins) == (state.log_id, self._pins):
            self._resume(
                await self.access.change(self._recorder.fold), held.position, held.events_from
            )
            _log.info("the catalog goes on", seq=held.position.seq)
        else:
            if held.log_id:
                _log.warning(
                    "the catalog is made again: its database is of another log, or of other keys",
                    database=str(self.access.database.path),
                    held=held.log_id,
                    log_id=state.log_id,
                )
            await self._begin_new(state)
        await self._read_archive(state)
        self._subscriber.start_from(
            Position(self._position.seq, self._position.chain_digest), state.log_id
        )

    async def _begin_new(self, state: LogState) -> None:
        await self.access.change(lambda: self._recorder.begin(state.log_id, self._pins))
        self._events_from = 1
        if self.settings.start == "snapshot":
            await self._follower.begin(self._load, self._restore)

    def _resume(self, fold: LogFold, position: Position, events_from: int) -> None:
        self._follower.reader.fold = fold
        self._gate.state = replace(fold.trust, pins=self._gate.state.pins)
        self._position = CatalogPosition(position.seq, position.chain_digest)
        self._events_from = events_from

    async def _read_archive(self, state: LogState) -> None:
        """Reads the entries that the log no longer streams.

        Raises:
            SeqTrimmedError: there is no archive, and no snapshot that could be used.
        """
        if self.seq + 1 >= state.floor_seq:
            return
        try:
            async with open_channel(self._log_address) as channel:
                await self._follow_archive(RemoteLog(channel), state.floor_seq)
        except (SeqTrimmedError, PreconditionError, ArtifactCorruptError) as error:
            _log.error("the archive cannot be read; trying a snapshot", reason=error.message)
            self._taken = []
            await self._follower.begin(self._load, self._restore)

    async def _follow_archive(self, log: RemoteLog, floor_seq: int) -> None:
        while self.seq + 1 < floor_seq:
            begin = Position(self.seq, self._position.chain_digest)
            page = await until_available(partial(log.entries, begin.seq + 1), "the log's archive")
            verify_run(begin, page)
            for stored in page:
                entry = await self._follower.reader.read(stored)
                if entry is not None:
                    self._gate.let_pass(entry)
                    self._take(entry, stored.position)
            await self._flush()

    async def _load(self, named: SnapshotTaken) -> Snapshot:
        return await load_snapshot(
            self._artifacts, named, None, holds=lambda _: False, with_memory=False
        )

    async def _restore(self, snapshot: Snapshot) -> None:
        """Fills the database with the edits of a snapshot."""
        trust = self._gate.state_of(snapshot.fold.trust, snapshot.named)
        pages = await load_group(self._artifacts, snapshot.manifest, LEDGER)
        ledger = await asyncio.to_thread(read_ledger, pages)
        position, fold = snapshot.position, snapshot.fold
        await self.access.change(
            lambda: self._recorder.begin_from(self.log_id, self._pins, position, fold, ledger)
        )
        self._gate.state = trust
        self._position = CatalogPosition(position.seq, position.chain_digest)
        self._events_from = position.seq + 1

    async def _prepare(self, entry: Entry) -> Change:
        return recorded(self._gate.check(entry) or (lambda: None))

    async def _apply(self, prepared: PreparedEntry) -> None:
        prepared.apply()
        self._take(prepared.entry, prepared.position)
        # Before it is live, readers are not served, and larger transactions are faster.
        if prepared.is_last or self._follower.is_live or len(self._taken) >= _CHUNK:
            await self._flush()

    def _take(self, entry: Entry, position: Position) -> None:
        self._taken.append(Taken.of(entry, position, self._follower.reader.fold))

    async def _flush(self) -> None:
        """Writes what was taken, and moves behind it."""
        taken, self._taken = self._taken, []
        if not taken:
            return
        head = head_of(self._follower.reader.fold)
        await failpoint_async("catalog.before_write")
        await self.access.keep(lambda: self._recorder.write(taken, head))
        await failpoint_async("catalog.after_write")
        position = taken[-1].position
        self._position = CatalogPosition(position.seq, position.chain_digest)
        await self._tell()

    async def _tell(self) -> None:
        self.version += 1
        async with self._news:
            self._news.notify_all()

    async def _log_state(self) -> LogState:
        async with open_channel(self._log_address) as channel:
            return await RemoteLog(channel).state()


def _seq_in(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT value FROM meta WHERE key = 'seq'").fetchone()[0])


def _digest_of(gate: CommitGate) -> str:
    """Names the keys under which entries pass: with others, all are checked again."""
    pins = gate.state.pins
    if pins is None:
        return ""
    said = f"{sorted(pins.keys)}|{pins.unsigned_until}"
    return hashlib.sha256(said.encode()).hexdigest()
