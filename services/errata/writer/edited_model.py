"""The writer's own model with the log's edits applied, and the ledger of all edits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from errata.editing.edit import Edit
from errata.editing.lane.contract import Lane, LaneReport
from errata.editing.model.causal_lm import CausalLM
from errata.errors import UnavailableError
from errata.log.entries import Entry, LaneConfigured
from errata.log.reader import EntryReader
from errata.log.subscriber import Subscriber
from errata.platform.failpoints import failpoint_async
from errata.replica.applier import Applier
from errata.replica.apply import apply
from errata.replica.commit_gate import CommitGate
from errata.replica.open_lane import OpenLane
from errata.writer import checks
from errata.writer.ledger import EditLedger


class EditedModel:
    """What fits, checks and compactions work on.

    `follow` folds entries into the ledger as they arrive. They are applied to the model only by
    `apply_all`. A commit must land on exactly the state that it was checked on, so a task that fits
    or appends commits, compactions or reverts holds `exclusive` meanwhile.

    Attributes:
        model: carries the edits that were applied.
        ledger: all edits.
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
            subscriber: starts at the log's first entry.
            reader: has read nothing.
        """
        self.model = model
        self.ledger = EditLedger()
        self.gate = CommitGate()
        self.is_closing = False
        self._applier = applier
        self._subscriber = subscriber
        self._reader = reader
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
        return bool(self._unapplied)

    def open_early(self, configured: LaneConfigured) -> Lane:
        """Opens a lane before its entry is applied, as `Applier.open_early`.

        Raises:
            InvalidRequestError, BaseModelMismatchError: the model cannot carry such a lane.
        """
        return self._applier.open_early(configured)

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
                await failpoint_async("writer.follow.before_fold")
                self._unapplied.extend(entries)
                await self.ledger.fold(entries)

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
        while self._unapplied:
            await apply(self._applier, self._unapplied[0])
            self._unapplied.popleft()

    async def answered(self, edits: Sequence[Edit]) -> dict[str, bool]:
        """For each edit, by name, whether the model answers its prompt with its target now."""
        found: dict[str, bool] = {}
        for name, lane in self.lanes.items():
            own = [edit for edit in edits if self.ledger.get(edit.name).lane == name]
            if own:
                found |= await asyncio.to_thread(checks.answered, self.model, own, lane.route)
        return found

    def report(self, name: str) -> LaneReport:
        """What a lane contains, as far as the log has been applied."""
        lane = self.lanes.get(name)
        report = None if lane is None else lane.lane.report()
        return report or LaneReport({"edits": len(self.ledger.active_edits(name))})
