"""The judge lets good histories pass, and names what is wrong with bad ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.robustness.fold_model import Kept, Kind
from tests.robustness.history import Answer, Change, Fault, Grant, History, Seen, WitnessSeen
from tests.robustness.judge import Least, judge

LANE = "lanes/a"


def _entry(
    entries: list[Kept], kind: Kind = "other", edits: tuple[str, ...] = (), request_id: str = ""
) -> None:
    seq = len(entries) + 1
    before = entries[-1].chain_digest if entries else bytes(32)
    payload = f"payload {seq}".encode()
    inner = hashlib.sha256(payload).digest()
    digest = hashlib.sha256(before + seq.to_bytes(8, "big") + inner).digest()
    own = request_id or f"id-{seq}"
    entries.append(Kept(seq, own, f"content {own}", payload, digest, kind, LANE, edits))


def _log() -> list[Kept]:
    """Two edits requested; committed together; one reverted; one more entry."""
    entries: list[Kept] = []
    _entry(entries)
    _entry(entries, "requested", ("edits/2-0", "edits/2-1"))
    _entry(entries, "committed", ("edits/2-0", "edits/2-1"))
    _entry(entries, "reverted", ("edits/2-0",))
    _entry(entries, "compacted", ("edits/2-1",))
    return entries


def _answer(entries: list[Kept], seq: int, **changes: object) -> Answer:
    active = {2: 0, 3: 2, 4: 1, 5: 1}[seq]
    digest = entries[seq - 1].chain_digest.hex()
    answer = Answer("retrieval", "r-1", 0, seq, digest, f"state with {active}", active)
    return replace(answer, **changes)  # type: ignore[arg-type]


def _good() -> tuple[History, list[Kept]]:
    entries = _log()
    history = History()
    for entry in entries:
        epoch = 1 if entry.seq < 4 else 2
        begun = 10.0 * entry.seq
        history.changes.append(
            Change(entry.request_id, entry.content, (epoch,), begun, begun + 1, "ok", entry.seq)
        )
    history.changes.append(Change("lost", "content lost", (1,), 32, 33, "unknown"))
    history.changes.append(Change("late", "content late", (1,), 45, 46, "refused"))
    history.changes.append(replace(history.changes[0], invoked=48, returned=49))  # a retry
    history.grants += [Grant(1, 1, 2), Grant(2, 35, 36)]
    history.seen["s"] = [
        Seen(entry.seq, entry.chain_digest.hex(), 60.0 + entry.seq) for entry in entries
    ]
    history.witnesses.append(WitnessSeen(before=41.5, seq=4, epoch=2))
    history.answers += [_answer(entries, seq, min_seq=seq) for seq in (2, 3, 4)]
    history.answers.append(_answer(entries, 3, replica="r-2", edits=("edits/2-0",)))
    history.faults.append(Fault("log", "kill", 42))
    history.final_states = {"edits/2-0": "reverted", "edits/2-1": "committed"}
    return history, entries


def test_a_good_history_passes() -> None:
    history, entries = _good()
    assert judge(history, entries, Least(5, 4, 5, 1)) == []


def _swap(history: History, entries: list[Kept]) -> None:
    entries[1], entries[2] = entries[2], entries[1]


def _rewrite(history: History, entries: list[Kept]) -> None:
    entries[2] = replace(entries[2], payload=b"other")


def _late(history: History, entries: list[Kept]) -> None:
    history.changes[1] = replace(history.changes[1], invoked=32, returned=33)


def _lose(history: History, entries: list[Kept]) -> None:
    del entries[4:]
    history.seen["s"].pop()


def _other_content(history: History, entries: list[Kept]) -> None:
    history.changes[2] = replace(history.changes[2], content="else")


def _twice(history: History, entries: list[Kept]) -> None:
    _entry(entries, request_id="id-1")


def _two_seqs(history: History, entries: list[Kept]) -> None:
    history.changes.append(replace(history.changes[0], invoked=70, returned=71, seq=2))


def _zombie(history: History, entries: list[Kept]) -> None:
    history.changes[4] = replace(history.changes[4], epochs=(1,))


def _zombie_alone(history: History, entries: list[Kept]) -> None:
    history.grants.append(Grant(3, 47, 48))


def _granted_twice(history: History, entries: list[Kept]) -> None:
    history.grants.append(Grant(2, 70, 71))


def _unwitnessed(history: History, entries: list[Kept]) -> None:
    history.witnesses.append(WitnessSeen(before=41.5, seq=3, epoch=2))


def _delivered_unwitnessed(history: History, entries: list[Kept]) -> None:
    history.seen["s"] = [replace(item, at=float(item.seq)) for item in history.seen["s"]]


def _epoch_unwitnessed(history: History, entries: list[Kept]) -> None:
    history.witnesses.append(WitnessSeen(before=41.5, seq=4, epoch=1))


def _skipped(history: History, entries: list[Kept]) -> None:
    del history.seen["s"][1]


def _repeated(history: History, entries: list[Kept]) -> None:
    history.seen["s"].insert(2, history.seen["s"][1])


def _forged(history: History, entries: list[Kept]) -> None:
    history.seen["s"][2] = replace(history.seen["s"][2], chain_digest="00")


def _stale(history: History, entries: list[Kept]) -> None:
    history.answers[0] = replace(history.answers[0], min_seq=3)


def _astray(history: History, entries: list[Kept]) -> None:
    history.answers[0] = replace(history.answers[0], chain_digest="00")


def _disagree(history: History, entries: list[Kept]) -> None:
    history.answers.append(_answer(entries, 3, replica="r-3", state_digest="else"))


def _blind(history: History, entries: list[Kept]) -> None:
    history.answers[1:] = [_answer(entries, 4, state_digest="state with 0")]


def _half_a_batch(history: History, entries: list[Kept]) -> None:
    history.answers.append(_answer(entries, 3, num_edits=1))


def _still_there(history: History, entries: list[Kept]) -> None:
    history.answers.append(_answer(entries, 4, edits=("edits/2-0",)))


def _reverted_twice(history: History, entries: list[Kept]) -> None:
    _entry(entries, "reverted", ("edits/2-0",))


def _forgotten(history: History, entries: list[Kept]) -> None:
    history.final_states["edits/2-1"] = "requested"


def _wrong_compaction(history: History, entries: list[Kept]) -> None:
    _entry(entries, "compacted", ("edits/2-0", "edits/2-1"))


def _idle(history: History, entries: list[Kept]) -> None:
    del history.answers[:]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_swap, "P1: entry 3 stands where 2"),
        (_rewrite, "P1: entry 3 does not continue"),
        (_late, "P1: 2 began after 3"),
        (_lose, "P2: 5 was acknowledged"),
        (_other_content, "P3: 3 was acknowledged for other content"),
        (_twice, "P3: id-1 made 1 and 6"),
        (_two_seqs, "P3: id-1 was told 1 and 2"),
        (_zombie, "P4: entry 5 of epoch 1 follows one of epoch 2"),
        (_zombie_alone, "P4: entry 5 of epoch 2 began after 3"),
        (_granted_twice, "P4: epoch 2 was granted twice"),
        (_unwitnessed, "P2: 4 was acknowledged before the witness"),
        (_delivered_unwitnessed, "P2: 5 was delivered before the witness"),
        (_epoch_unwitnessed, "P4: epoch 2 was granted, the witness has 1"),
        (_skipped, "P1: s got entry 3 where 2"),
        (_repeated, "P1: s got entry 2 where 3"),
        (_forged, "P1: s got another entry 3"),
        (_stale, "P5: r-1 answered under 2"),
        (_astray, "P6: r-1 names another history"),
        (_disagree, "P7: r-3 and r-1 differ at 3"),
        (_blind, "P7: retrieval has one digest at 2 and 4"),
        (_half_a_batch, "P9: r-1 holds 1 edits at 3"),
        (_still_there, "P11: r-1 at 4 names"),
        (_reverted_twice, "P9: entry 6 (reverted) names edits/2-0, which is reverted"),
        (_forgotten, "P9: the writer says edits/2-1 is requested"),
        (_wrong_compaction, "P9: entry 6 compacts other edits"),
        (_idle, "traffic: 0 answers, 1 wanted"),
    ],
)
def test_a_bad_history_is_named(spoil: Callable[[History, list[Kept]], None], told: str) -> None:
    history, entries = _good()
    spoil(history, entries)
    found = judge(history, entries, Least(1, 1, 1, 1))
    assert any(text.startswith(told) for text in found), found
