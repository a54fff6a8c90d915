"""The writer's own model with the log's edits applied, and the ledger of all edits."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog
from torch import Tensor

from errata.editing.edit import Edit
from errata.editing.lane.contract import Lane, LaneReport
from errata.editing.model.causal_lm import CausalLM
from errata.editing.namespaces import reading_for
from errata.errors import ErrataError, UnavailableError
from errata.log.chain import ORIGIN, Position
from errata.log.entries import Entry, LaneConfigured, SnapshotTaken
from errata.log.fold import LogFold
from errata.log.reader import EntryReader
from errata.log.subscriber import Subscriber
from errata.platform.failpoints import failpoint_async
from errata.replica.applier import Applier
from errata.replica.apply import apply
from errata.replica.commit_gate import CommitGate
from errata.replica.open_lane import OpenLane
from errata.replica.routing_table import RoutingTable
from errata.replica.snapshot import CapturedState, Snapshot
from errata.writer import checks
from errata.writer.ledger import EditLedger
from errata.writer.record import LedgerState

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class Captured:
    """What a snapshot is made of.

    Attributes:
        position: of all of it.
        lanes: copies the lanes, on any thread.
        base_weights: of the layers that lanes may change.
        fold: of the log.
        ledger: of the edits.
    """

    position: Position
    lanes: Callable[[], CapturedState]
    base_weights: Mapping[int, Tensor]
    fold: LogFold
    ledger: LedgerState


class EditedModel:
    """What fits, checks and compactions work on.

    `follow` folds entries into the ledger as they arrive. They are applied to the model only by
    `apply_all`. A commit must land on exactly the state that it was checked on, so a task that fits
    or appends commits, compactions or reverts holds `exclusive` meanwhile.

    Attributes:
        model: carries the edits that were applied.
        ledger: all edits.
        position: of the ledger.
        work_seq: of the last entry in the ledger that does not merely name a snapshot.
        gate: trust as of the entries in the ledger.
        is_closing: whether the writer is shutting down, so that nothing more may be fitted.
    """

    def __init__(
        self, model: CausalLM, applier: Applier, subscriber: Subscriber, reader: EntryReader
    ) -> None:
        """Applies nothing yet.

        Args:
            model: holds its base weights; nobody else uses it.
            applier: of `model`; has applied nothing.
            subscriber: starts at the log's first entry, unless `begin_from` moves it.
            reader: has read nothing.
        """
        self.model = model
        self.ledger = EditLedger()
        self.gate = CommitGate()
        self.is_closing = False
        self._applier = applier
        self._subscriber = subscriber
        self._reader = reader
        self.position, self.work_seq = ORIGIN, 0
        self._snapshot: Snapshot | None = None  # to be restored in the model
        self._unapplied: deque[Entry] = deque()
        self._lock = asyncio.Lock()
        self._carries_edits = False
        self._begun_or_closing = asyncio.Event()

    @property
    def lanes(self) -> Mapping[str, OpenLane]:
        """The lanes, as far as the log has been applied."""
        return self._applier.lanes

    @property
    def has_unapplied(self) -> bool:
        """Whether the ledger contains entries that have not been applied."""
        return bool(self._unapplied) or self._snapshot is not None

    @property
    def begun_from_seq(self) -> int:
        """The position of the snapshot with which the next `apply_all` begins; 0 for none."""
        return 0 if self._snapshot is None else self._snapshot.position.seq

    @property
    def awaits_restore(self) -> bool:
        """Whether the next `apply_all` begins with a snapshot, which takes long."""
        return self._snapshot is not None

    @property
    def named_snapshot(self) -> SnapshotTaken | None:
        """The newest snapshot that an entry names, as far as entries were read."""
        return self._reader.fold.snapshot

    @property
    def read_seq(self) -> int:
        """The last entry that was read, voided ones included."""
        return self._reader.fold.seq

    def open_early(self, configured: LaneConfigured) -> Lane:
        """Opens a lane before its entry is applied, as `Applier.open_early`.

        Raises:
            InvalidRequestError, BaseModelMismatchError: the model cannot carry such a lane.
        """
        return self._applier.open_early(configured)

    async def begin_from(self, snapshot: Snapshot, ledger: LedgerState, log_id: str) -> None:
        """Continues from a snapshot; the model gets its lanes with the first `apply_all`.

        Raises:
            CommitNotTrustedError: the snapshot cannot be trusted.
        """
        self.gate.state = self.gate.state_of(snapshot.fold.trust, snapshot.named)
        self._reader.begin(snapshot.fold, snapshot.named)
        self._subscriber.start_from(snapshot.position, log_id)
        self._snapshot, self.position = snapshot, snapshot.position
        self.work_seq = snapshot.position.seq
        await self.ledger.restore(ledger)

    def check_confirmed(self) -> None:
        """Returns if an entry names the snapshot from which the ledger began.

        Raises:
            LogBehindWitnessError: none up to the log's head does.
        """
        self._reader.check_confirmed()

    async def follow(self) -> None:
        """Folds entries into the ledger until cancelled.

        Raises:
            CommitNotTrustedError: no trusted key signed a commit.
            ErrataError: as `Subscriber.batches`.
            ImpossibleEntryError: an entry contradicts those before it and is not voided; those
                before it are folded in.
        """
        async for batch in self._subscriber.batches():
            entries: list[Entry] = []
            try:
                for stored in batch.entries:
                    entry = await self._reader.read(stored)
                    if entry is not None:
                        self.gate.let_pass(entry)
                        entries.append(entry)
            finally:
                named = (e.seq for e in entries if not isinstance(e.payload, SnapshotTaken))
                self.work_seq = max(named, default=self.work_seq)
                await failpoint_async("writer.follow.before_fold")
                self._unapplied.extend(entries)
                await self.ledger.fold(entries)
            self.position = batch.position  # last: what is captured there is whole

    def skip_to(self, snapshot: Snapshot) -> None:
        """Lets the first `apply_all` begin with this snapshot, whose entries the ledger has.

        A standby that has waited for long would otherwise apply all that it read meanwhile.
        """
        self._snapshot = snapshot
        last = snapshot.position.seq
        self._unapplied = deque(entry for entry in self._unapplied if entry.seq > last)

    def begin(self) -> None:
        """Permits edits on the model; until then lanes gather statistics of its base weights."""
        self._carries_edits = True
        self._begun_or_closing.set()

    async def wait_until_begun(self) -> None:
        """Waits until `begin` or `close` is called."""
        await self._begun_or_closing.wait()

    def close(self) -> None:
        """Announces the shutdown; running fits, reverts and compactions continue."""
        self.is_closing = True
        self._begun_or_closing.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Waits for its turn, and keeps fits, compactions and reverts of others out."""
        async with self._lock:
            yield

    async def apply_all(self) -> None:
        """Applies the entries that the ledger already contains; call it within `exclusive`.

        Raises:
            UnavailableError: `begin` was not called yet.
        """
        if not self._carries_edits:
            raise UnavailableError("the writer is starting; try again.")
        if self._snapshot is not None:
            await self._restore(self._snapshot)
            self._snapshot = None
        while self._unapplied:
            await apply(self._applier, self._unapplied[0])
            self._unapplied.popleft()

    async def capture(self) -> Captured | None:
        """Captures model, ledger and fold at one position; call it within `exclusive`.

        Returns:
            None in the middle of a batch of entries; try again.

        Raises:
            UnavailableError: as `apply_all`.
        """
        await self.apply_all()
        # Entries may arrive from here on, but are not applied: the lanes stay at this position.
        position, fold = self.position, self._reader.fold
        if fold.seq != position.seq:
            return None
        fold, ledger = fold.copy(), self.ledger.capture()
        copy = await asyncio.to_thread(self._applier.capture)
        base = await asyncio.to_thread(self._applier.base_weights)
        return Captured(position, copy, base, fold, ledger)

    async def _restore(self, snapshot: Snapshot) -> None:
        """Puts the snapshot's lanes into the model; reads the entries instead if that fails."""
        try:
            await asyncio.to_thread(self._applier.restore, snapshot)
        except ErrataError as error:
            _log.error(
                "the snapshot's lanes cannot be used; the log is read from entry 1",
                seq=snapshot.position.seq,
                reason=error.message,
            )
            await self._apply_from_first(snapshot)

    async def _apply_from_first(self, snapshot: Snapshot) -> None:
        reader, last = EntryReader(self._reader.voided_seqs), snapshot.position.seq
        subscriber = self._subscriber.another()
        async with aclosing(subscriber.batches()) as batches:
            async for batch in batches:
                for stored in batch.entries:
                    if stored.seq > last:
                        return
                    entry = await reader.read(stored)
                    if entry is not None:
                        await apply(self._applier, entry)
                if batch.position.seq >= last:
                    return

    def routing(self) -> RoutingTable | None:
        """Which edits claim which prompts, as far as the log has been applied; None if none do."""
        return self._applier.routing()

    async def answered(self, edits: Sequence[Edit]) -> dict[str, bool]:
        """For each edit, by name, whether the model answers its prompt with its target now."""
        found: dict[str, bool] = {}
        parts: defaultdict[tuple[str, str], list[Edit]] = defaultdict(list)
        for edit in edits:
            parts[self.ledger.get(edit.name).lane, edit.namespace].append(edit)
        for (name, place), own in parts.items():
            if name in self.lanes:
                route = partial(self.lanes[name].route, reading=reading_for(place))
                found |= await asyncio.to_thread(checks.answered, self.model, own, route)
        return found

    def report(self, name: str) -> LaneReport:
        """What a lane contains, as far as the log has been applied."""
        lane = self.lanes.get(name)
        report = None if lane is None else lane.lane.report()
        return report or LaneReport({"edits": len(self.ledger.active_edits(name))})
