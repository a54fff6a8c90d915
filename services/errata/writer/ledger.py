"""The writer's view of every edit, folded from the log, or from a snapshot on."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from errata.editing.chat import Prompt
from errata.editing.edit import Edit
from errata.log.canary_entries import CanaryEnded, CanarySet, Outcome
from errata.log.entries import (
    EditsCommitted,
    EditsRejected,
    EditsReleased,
    EditsRequested,
    EditsReverted,
    EditsReviewed,
    Entry,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
    LanePolicySet,
    ProbesSet,
    Verdict,
    impossible_entry,
)
from errata.writer.agenda import Agenda
from errata.writer.batching import next_batch, window
from errata.writer.canary_book import CanaryBook, decision_digest
from errata.writer.record import (
    EditRecord,
    LedgerState,
    Review,
    State,
    digest_of,
    order_of,
    review_error,
)
from errata.writer.related_edits import RelatedEdits


class EditLedger(RelatedEdits):
    """All edits in log order, the lanes, the canaries, and the request ids that were used."""

    def __init__(self) -> None:
        super().__init__()
        self.seq = 0
        self.lane_models: dict[str, str] = {}  # lane → digest of its active model
        self.probes: tuple[Prompt, ...] = ()
        self.probes_seq = 0  # of the entry that set them; 0 before the first
        self.reviewed_lanes = set[str]()  # whose new edits wait for approval
        self.canaries = CanaryBook()
        self._pending: dict[str, None] = {}  # insertion order is the order of their fits
        self._waiting: dict[str, None] = {}  # proposed or scheduled
        self._request_seqs: dict[str, int] = {}
        self._compactions: dict[int, str] = {}  # seq → lane
        self._decisions: dict[int, str] = {}  # seq → digest
        self._requests: dict[int, tuple[str, ...]] = {}  # seq → names
        self.agenda = Agenda()
        self._changed = asyncio.Condition()

    @property
    def num_pending(self) -> int:
        """Edits that are to be fitted."""
        return len(self._pending)

    @property
    def num_waiting(self) -> int:
        """Edits that wait for a decision or a time."""
        return len(self._waiting)

    def counts(self) -> Counter[tuple[str, str]]:
        """The number of edits by (state, lane); any thread can call it."""
        found = Counter((r.state.value, r.lane) for r in list(self._records.values()))
        found.update({(state.value, lane): 0 for state in State for lane in list(self.lanes)})
        return found

    def oldest_pending(self) -> datetime | None:
        """Since when the first pending edit waits for its fit; any thread can call it."""
        names = list(self._pending)
        return self._records[names[0]].waits_since if names else None

    def capture(self) -> LedgerState:
        """Everything in it, which later entries leave as it is."""
        return LedgerState(
            self.seq,
            dict(self.lanes),
            dict(self.lane_models),
            dict(self._compactions),
            tuple(self._records.values()),
            dict(self._request_seqs),
            self.probes,
            self.probes_seq,
            frozenset(self.reviewed_lanes),
            dict(self._decisions),
            self.canaries.capture(),
        )

    async def restore(self, state: LedgerState) -> None:
        """Continues from a snapshot; nothing was folded in yet."""
        self.seq = state.seq
        self.lanes, self.lane_models = dict(state.lanes), dict(state.lane_models)
        self.probes, self.probes_seq = state.probes, state.probes_seq
        self.reviewed_lanes = set(state.reviewed_lanes)
        self._compactions, self._request_seqs = dict(state.compactions), dict(state.request_seqs)
        self._decisions = dict(state.decisions)
        self.canaries.restore(state.canaries)
        requests: defaultdict[int, list[str]] = defaultdict(list)
        for record in state.records:
            name = record.edit.name
            self._records[name] = record
            self._conflicts.add(record.edit)
            self.canaries.add(record.edit)
            requests[int(name.removeprefix("edits/").partition("-")[0])].append(name)
            if record.state.waits:
                self._waiting[name] = None
            if not record.state.settled or record.state is State.COMMITTED:
                self.agenda.note(record)
        pending = [r for r in state.records if not r.state.settled and not r.state.waits]
        for record in sorted(pending, key=lambda record: record.queue_order):
            self._pending[record.edit.name] = None
        self._requests = {seq: tuple(names) for seq, names in requests.items()}
        active = [record for record in state.records if record.state is State.COMMITTED]
        for record in sorted(active, key=lambda record: record.commit_seq):
            self._activate(record.edit.name)
        await self.notify()

    async def fold(self, entries: Iterable[Entry]) -> None:
        """Folds the next entries in, and wakes the waiting tasks.

        Raises:
            ImpossibleEntryError: an entry names an edit that does not exist, or is not in force.
                An `EntryReader` stops before it.
        """
        for entry in entries:
            try:
                self._fold_one(entry)
            except (KeyError, ValueError) as error:
                raise impossible_entry(entry.seq, f"no edit in force is called {error}.") from error
            self._request_seqs[entry.request_id] = entry.seq
            self.seq = entry.seq
        await self.notify()

    async def notify(self) -> None:
        """Wakes the waiting tasks to evaluate their conditions."""
        async with self._changed:
            self._changed.notify_all()

    async def wait_until(self, true: Callable[[], bool]) -> None:
        """Returns once `true()`; it is evaluated after every change."""
        async with self._changed:
            await self._changed.wait_for(true)

    async def wait_for_seq(self, seq: int) -> None:
        """Returns once the entry at `seq` is folded in."""
        await self.wait_until(lambda: self.seq >= seq)

    def of_request(self, seq: int) -> list[EditRecord]:
        """The edits of the request at `seq`."""
        return [self._records[name] for name in self._requests[seq]]

    def decision_at(self, seq: int) -> str | None:
        """The digest of the decision at a position; None if there is another entry."""
        return self._decisions.get(seq)

    def seq_of_request(self, request_id: str) -> int | None:
        """The position of the entry with this request id; None if there is none."""
        return self._request_seqs.get(request_id)

    def compacted_lane(self, seq: int) -> str | None:
        """The lane that the entry at `seq` compacted; None if it is another kind of entry."""
        return self._compactions.get(seq)

    def next_batch(self, lane: str, max_edits: int, alone: frozenset[str]) -> list[EditRecord]:
        """The oldest pending edits of a lane that can be fitted together; see `batching`."""
        return self._recorded(next_batch(self._pending_edits(), lane, max_edits, alone))

    def window(self, lane: str, alone: frozenset[str]) -> list[EditRecord]:
        """All pending edits of a lane that can be fitted now; see `batching`."""
        return self._recorded(window(self._pending_edits(), lane, alone))

    def pending_lanes(self) -> list[str]:
        """Lanes with pending edits, ordered by their oldest one."""
        return list(dict.fromkeys(self._records[name].lane for name in self._pending))

    def pending_elsewhere(self, lane: str) -> list[str]:
        """Pending edits of other lanes."""
        return [name for name in self._pending if self._records[name].lane != lane]

    def _pending_edits(self) -> Iterator[tuple[str, Edit]]:
        for name in self._pending:
            record = self._records[name]
            yield record.lane, record.edit

    def _recorded(self, edits: Iterable[Edit]) -> list[EditRecord]:
        return [self._records[edit.name] for edit in edits]

    def set_fitting(self, names: Sequence[str], fitting: bool) -> None:
        """Marks edits as being fitted, or as requested again; others stay as they are."""
        for name in names:
            record = self._records[name]
            if name in self._pending:
                state = State.FITTING if fitting else State.REQUESTED
                self._records[name] = replace(record, state=state)

    def _fold_one(self, entry: Entry) -> None:
        match entry.payload:
            case EditsRequested() as kind:
                self._fold_request(entry, kind)
            case EditsCommitted() as kind:
                for name, figures in zip(kind.edits, kind.figures, strict=True):
                    self._settle(
                        name,
                        state=State.COMMITTED,
                        commit_seq=entry.seq,
                        figures=figures,
                        artifact=kind.artifact,
                        base_model_digest=kind.base_model_digest,
                    )
                    self._activate(name)
            case EditsRejected() as kind:
                for item in kind.rejections:
                    self._settle(
                        item.edit, state=State.REJECTED, error=item.error, figures=item.figures
                    )
            case EditsReverted() as kind:
                for name in kind.edits:
                    if self._records[name].state is not State.REVERTED:  # the first reversal counts
                        self._revert(name, entry)
            case LaneConfigured() as kind:
                self.lanes[kind.lane] = (entry.seq, kind)
            case LaneModelCommitted() as kind:
                self.lane_models[kind.lane] = kind.model.digest
            case LaneCompacted() as kind:
                self._compactions[entry.seq] = kind.lane
            case ProbesSet() as kind:
                self.probes, self.probes_seq = kind.prompts, entry.seq
            case LanePolicySet(lane=name, requires_approval=required):
                (self.reviewed_lanes.add if required else self.reviewed_lanes.discard)(name)
            case EditsReviewed() as kind:
                self._fold_review(entry, kind)
            case EditsReleased() as kind:
                for name in sorted(kind.edits, key=order_of):
                    self._queue(name, entry)
            case CanarySet() as kind:
                self._decisions[entry.seq] = decision_digest(kind, entry.author)
                self.canaries.put(entry, kind)
            case CanaryEnded() as kind:
                self._decisions[entry.seq] = decision_digest(kind, entry.author)
                self._end_canary(entry, kind)

    def _end_canary(self, entry: Entry, kind: CanaryEnded) -> None:
        ended = self.canaries.end(entry, kind)
        if kind.outcome is Outcome.PROMOTED:
            self._move(self.canaries.edits_of(ended.name), ended.namespace)
            return
        for name in kind.edits:
            self._revert(name, entry)

    def _revert(self, name: str, entry: Entry) -> None:
        self._settle(name, state=State.REVERTED, revert_seq=entry.seq)
        self._deactivate(name)

    def _fold_request(self, entry: Entry, kind: EditsRequested) -> None:
        self._requests[entry.seq] = tuple(edit.name for edit in kind.edits)
        is_reviewed = kind.lane in self.reviewed_lanes
        columns = zip(kind.scheduled(), kind.sources, kind.subjects_found, strict=True)
        for (edit, times), source, found in columns:
            soon = State.REQUESTED if times.effective_from is None else State.SCHEDULED
            state = State.PROPOSED if is_reviewed else soon
            self._records[edit.name] = EditRecord(
                edit,
                source,
                kind.lane,
                entry.author,
                entry.append_time,
                state,
                on_behalf_of=entry.on_behalf_of,
                trace_parent=entry.trace_parent,
                subject_found=found,
                times=times,
            )
            (self._waiting if state.waits else self._pending)[edit.name] = None
            self.agenda.note(self._records[edit.name])
            self._conflicts.add(edit)
            self.canaries.add(edit)

    def _fold_review(self, entry: Entry, kind: EditsReviewed) -> None:
        self._decisions[entry.seq] = digest_of(kind)
        review = Review(entry.seq, kind.verdict, kind.reviewer, kind.comment, entry.append_time)
        for name in sorted(kind.edits, key=order_of):
            if kind.verdict is Verdict.APPROVED:
                self._settle(name, review=review)
                if self._records[name].times.effective_from is None:
                    self._queue(name, entry)
                else:
                    self._wait(name)
            else:
                is_rejected = kind.verdict is Verdict.REJECTED
                state = State.REJECTED if is_rejected else State.WITHDRAWN
                error = review_error(review) if is_rejected else None
                self._settle(name, review=review, state=state, error=error)

    def _wait(self, name: str) -> None:
        """Lets an approved edit wait for its time, which may have passed."""
        self._settle(name, state=State.SCHEDULED)
        self._waiting[name] = None
        self.agenda.note(self._records[name])

    def _queue(self, name: str, entry: Entry) -> None:
        """Lets an edit be fitted as if it had been requested by this entry."""
        self._settle(
            name, state=State.REQUESTED, queued_seq=entry.seq, queue_time=entry.append_time
        )
        self._pending[name] = None

    def _settle(self, name: str, **changes: object) -> None:
        self._records[name] = replace(self._records[name], **changes)  # type: ignore[arg-type]
        self._pending.pop(name, None)
        self._waiting.pop(name, None)
