"""A ledger from a snapshot answers, and goes on, as the one of which it was taken."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from errata.editing.chat import Chat, Message, ToolCall
from errata.errors import ArtifactCorruptError, CheckFailedError, LaneFullError
from errata.log.entries import (
    EditsCommitted,
    EditsRejected,
    EditsReleased,
    EditsRequested,
    EditsReverted,
    EditsReviewed,
    Entry,
    LaneConfigured,
    LanePolicySet,
    Payload,
    ProbesSet,
    Rejection,
    Schedule,
    Verdict,
)
from errata.writer.ledger import EditLedger
from errata.writer.ledger_pages import ledger_pages, read_ledger
from errata.writer.publish import own_request_id
from errata.writer.record import State, order_of
from tests.unit.writer.test_ledger import FIGURES, REF, TIME, _edit, _request

LANES = ("lanes/main", "lanes/other")
CHAT = Chat(
    (Message("user", "hello"), Message("assistant", "", "", (ToolCall("1", "find", "{}"),))),
    tools_json=('{"a": 1}',),
)


class Log:
    """Random entries."""

    def __init__(self, seed: int) -> None:
        self.random, self.entries = random.Random(seed), list[Entry]()
        self.pending: list[tuple[str, str]] = []
        self.active: list[tuple[str, str]] = []
        self.proposed: list[tuple[str, str]] = []
        self.scheduled: list[tuple[str, str]] = []
        self.timed = set[str]()
        for lane in LANES:
            self.add(LaneConfigured(lane, "recipe", "{}", "c", "m"))
        self.add(LanePolicySet(LANES[1], True))
        self.add(ProbesSet(("a probe", CHAT)))

    def add(self, payload: Payload, request_id: str = "") -> None:
        seq = len(self.entries) + 1
        key = request_id or str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        self.entries.append(Entry(seq, key, TIME, "me", payload, trace_parent=f"00-{seq}"))

    def grow(self, count: int) -> None:
        for _ in range(count):
            getattr(
                self,
                self.random.choice(
                    (
                        "request",
                        "request",
                        "settle",
                        "settle",
                        "revert",
                        "review",
                        "review",
                        "release",
                    )
                ),
            )()

    def request(self) -> None:
        lane, seq = self.random.choice(LANES), len(self.entries) + 1
        edits = tuple(
            replace(
                _edit(f"edits/{seq}-{n}", prompt=f"prompt {self.random.randint(0, 5)}"),
                rephrases=(CHAT, "other"),
            )
            for n in range(self.random.randint(1, 3))
        )
        payload = _request(seq, *edits, lane=lane).payload
        assert isinstance(payload, EditsRequested)
        begin, end = (TIME + timedelta(days=days) for days in (seq % 3, 5))
        if self.random.random() < 0.3:
            times = Schedule(begin, None if seq % 2 else end)
            payload = replace(payload, schedules=(times,) * len(edits))
        self.add(payload)
        queue = self.pending if lane == LANES[0] else self.proposed
        if lane == LANES[0] and payload.schedules:
            queue = self.scheduled
        self.timed |= {edit.name for edit in edits if payload.schedules}
        queue += [(edit.name, lane) for edit in edits]

    def review(self) -> None:
        if not self.proposed:
            return
        chosen = self.random.sample(self.proposed, self.random.randint(1, len(self.proposed)))
        self.proposed = [each for each in self.proposed if each not in chosen]
        chosen.sort(key=lambda each: order_of(each[0]))
        verdict = self.random.choice((Verdict.APPROVED, Verdict.APPROVED, *Verdict))
        self.add(EditsReviewed(tuple(name for name, _ in chosen), verdict, "why", "eve"))
        if verdict is Verdict.APPROVED:
            self.scheduled += [each for each in chosen if each[0] in self.timed]
            self.pending += [each for each in chosen if each[0] not in self.timed]

    def release(self) -> None:
        if self.scheduled:
            self.add(EditsReleased(tuple(name for name, _ in self.scheduled)))
            self.pending += self.scheduled
            self.scheduled = []

    def settle(self) -> None:
        if not self.pending:
            return
        name, lane = self.pending.pop(self.random.randrange(len(self.pending)))
        if self.random.random() < 0.2:
            error = LaneFullError("full", lane=lane) if len(name) % 2 else CheckFailedError("no")
            self.add(EditsRejected(lane, (Rejection(name, error, FIGURES),)))
            return
        commit = EditsCommitted(lane, (name,), (FIGURES,), REF, None, 1, "m", "c")
        self.add(commit, own_request_id(name))
        self.active.append((name, lane))

    def revert(self) -> None:
        if self.active:
            name, _ = self.active.pop(self.random.randrange(len(self.active)))
            self.add(EditsReverted((name,), ""))


async def _folded(entries: list[Entry]) -> EditLedger:
    ledger = EditLedger()
    await ledger.fold(entries)
    return ledger


async def _restored(ledger: EditLedger) -> EditLedger:
    fresh = EditLedger()
    await fresh.restore(read_ledger(list(ledger_pages(ledger.capture()))))
    return fresh


def _told(ledger: EditLedger) -> dict[str, object]:
    records = list(ledger.records())
    return {
        "seq": ledger.seq,
        "lanes": ledger.lanes,
        "models": ledger.lane_models,
        "records": [replace(record, error=None) for record in records],
        "errors": [
            record.error and (type(record.error), record.error.message, record.error.metadata)
            for record in records
        ],
        "pending": ledger.pending_lanes(),
        "windows": [ledger.window(lane, frozenset()) for lane in LANES],
        "active": [ledger.active_edits(lane) for lane in LANES],
        "superseded": [ledger.superseded_by(record) for record in records],
        "counts": ledger.counts(),
        "oldest": ledger.oldest_pending(),
        "queue": list(ledger._pending),
        "waiting": ledger.num_waiting,
        "conflicts": [ledger.conflicts_of([record.edit], record.lane) for record in records],
        "due": ledger.agenda.has_due(TIME + timedelta(days=1)),
        "probes": (ledger.probes_seq, ledger.probes),
    }


@pytest.mark.promise("P7")
@pytest.mark.parametrize("seed", range(20))
async def test_it_tells_and_does_the_same_from_any_position(seed: int) -> None:
    log = Log(seed)
    log.grow(60)
    at = log.random.randint(2, len(log.entries))
    whole = await _folded(log.entries[:at])
    restored = await _restored(whole)
    assert _told(restored) == _told(whole)
    for entry in log.entries[at:]:
        await whole.fold([entry])
        await restored.fold([entry])
    assert _told(restored) == _told(whole)
    for entry in log.entries:
        is_own = isinstance(entry.payload, EditsCommitted)
        known = restored.seq_of_request(entry.request_id)
        assert known == whole.seq_of_request(entry.request_id) or (is_own and entry.seq <= at)


async def test_a_fit_that_was_running_is_requested_again() -> None:
    ledger = EditLedger()
    await ledger.fold([_request(1, _edit("edits/1-0"))])
    ledger.set_fitting(["edits/1-0"], True)
    restored = await _restored(ledger)
    assert restored.get("edits/1-0").state is State.REQUESTED


async def test_old_pages_are_the_same_after_new_edits() -> None:
    log = Log(7)
    for _ in range(3_000):
        log.request()
    ledger = await _folded(log.entries)
    before = list(ledger_pages(ledger.capture()))
    name, lane = log.pending[0]
    log.entries.clear()
    log.add(EditsCommitted(lane, (name,), (FIGURES,), REF, None, 1, "m", "c"))
    await ledger.fold(log.entries)
    after = list(ledger_pages(ledger.capture()))
    assert len(before) == len(after) > 8
    assert len(set(after) - set(before)) <= 3, "the head, the edit's page, and that of new ids"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pages: pages[:-1],
        lambda pages: [pages[0][:-5], *pages[1:]],
        lambda pages: [pages[0], pages[0], *pages[2:]],
        lambda pages: [],
        lambda pages: [pages[0].replace(b'"lanes"', b'"lines"'), *pages[1:]],
        lambda pages: [pages[0], pages[1].replace(b"committed", b"commuted"), *pages[2:]],
    ],
)
async def test_other_pages_are_refused(spoil: Callable[[list[bytes]], list[bytes]]) -> None:
    log = Log(3)
    log.grow(40)
    pages = list(ledger_pages((await _folded(log.entries)).capture()))
    read_ledger(pages)
    with pytest.raises(ArtifactCorruptError, match="the ledger in the snapshot"):
        read_ledger(spoil(pages))
