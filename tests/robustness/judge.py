"""Judges a history: does it keep the promises of docs/promises.md, whatever was done to it?

Each check is a function from the history and the log's final entries to violations, in words that
begin with the promise. None of them knows what the nemesis did.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.robustness.fold_model import Folded, Kept, fold
from tests.robustness.history import Answer, Change, History


@dataclass(frozen=True)
class Least:
    """The traffic below which a run says nothing, and fails."""

    acknowledged: int = 1
    answers: int = 0
    delivered: int = 1
    faults: int = 0


@dataclass(frozen=True)
class Case:
    """What is judged."""

    history: History
    entries: Sequence[Kept]
    folded: Folded


def judge(history: History, entries: Sequence[Kept], least: Least = Least()) -> list[str]:
    """The violations; none if every promise was kept by enough traffic.

    Args:
        history: of the run.
        entries: all entries of the log, read after everything was healed.
        least: traffic that is wanted.
    """
    case = Case(history, entries, fold(list(entries)))
    found = [text for check in CHECKS for text in check(case)]
    return found + list(_too_little(history, least))


def _too_little(history: History, least: Least) -> Iterator[str]:
    counts = history.figures()
    for name in ("acknowledged", "answers", "delivered"):
        if counts[name] < getattr(least, name):
            yield f"traffic: {counts[name]} {name}, {getattr(least, name)} wanted"
    if len(history.faults) < least.faults:
        yield f"traffic: {len(history.faults)} faults, {least.faults} wanted"


def chained(case: Case) -> Iterator[str]:
    """P1: the log is 1, 2, 3, … and each digest covers all before it."""
    digest = bytes(32)
    for number, entry in enumerate(case.entries, start=1):
        if entry.seq != number:
            yield f"P1: entry {entry.seq} stands where {number} is expected"
            return
        inner = hashlib.sha256(entry.payload).digest()
        digest = hashlib.sha256(digest + number.to_bytes(8, "big") + inner).digest()
        if digest != entry.chain_digest:
            yield f"P1: entry {number} does not continue the chain"
            return


def real_time_order(case: Case) -> Iterator[str]:
    """P1: what began after another change was acknowledged comes behind it."""
    acknowledged = case.history.acknowledged()
    finished = iter(sorted(acknowledged, key=lambda change: change.returned))
    pending, latest = next(finished, None), 0
    first: dict[str, Change] = {}
    for change in sorted(acknowledged, key=lambda change: change.invoked):
        first.setdefault(change.request_id, change)
    for change in first.values():  # a repeated id has the position of its first call
        while pending is not None and pending.returned < change.invoked:
            latest = max(latest, pending.seq)
            pending = next(finished, None)
        if change.seq <= latest:
            yield f"P1: {change.seq} began after {latest} was acknowledged"


def nothing_lost(case: Case) -> Iterator[str]:
    """P2, P3: each acknowledged change is in the log, there and with that content."""
    by_seq = {entry.seq: entry for entry in case.entries}
    for change in case.history.acknowledged():
        entry = by_seq.get(change.seq)
        if entry is None:
            yield f"P2: {change.seq} was acknowledged; the log ends at {len(case.entries)}"
        elif entry.request_id != change.request_id:
            yield f"P2: {change.request_id} was told {change.seq}, which is {entry.request_id}"
        elif entry.content != change.content:
            yield f"P3: {change.seq} was acknowledged for other content than the log's"


def once_each(case: Case) -> Iterator[str]:
    """P3: an id has one entry, one position for all who ask, and one content."""
    seqs: dict[str, int] = {}
    for entry in case.entries:
        if entry.request_id in seqs:
            yield f"P3: {entry.request_id} made {seqs[entry.request_id]} and {entry.seq}"
        seqs[entry.request_id] = entry.seq
    told: dict[str, Change] = {}
    for change in case.history.acknowledged():
        before = told.setdefault(change.request_id, change)
        if before.seq != change.seq:
            yield f"P3: {change.request_id} was told {before.seq} and {change.seq}"


def fenced(case: Case) -> Iterator[str]:
    """P4: nothing is appended under an epoch once a later one was granted."""
    grants = sorted(case.history.grants, key=lambda grant: grant.returned)
    held: set[int] = set()
    for grant in grants:
        if grant.epoch in held:
            yield f"P4: epoch {grant.epoch} was granted twice"
        held.add(grant.epoch)
    sent: dict[str, set[int]] = defaultdict(set)
    begun: dict[str, float] = {}
    for change in case.history.changes:
        sent[change.request_id] |= set(change.epochs)
        begun[change.request_id] = min(change.invoked, begun.get(change.request_id, change.invoked))
    highest = 0
    for entry in case.entries:
        epochs = sent.get(entry.request_id)
        if not epochs:
            continue
        if max(epochs) < highest:
            yield f"P4: entry {entry.seq} of epoch {max(epochs)} follows one of epoch {highest}"
        highest = max(highest, min(epochs))
        later = [
            grant.epoch
            for grant in grants
            if grant.epoch > max(epochs) and grant.returned < begun[entry.request_id]
        ]
        if later:
            yield f"P4: entry {entry.seq} of epoch {max(epochs)} began after {max(later)} was given"


def witnessed(case: Case) -> Iterator[str]:
    """P2: at its death a log service has witnessed all that it acknowledged or delivered."""
    told = [(c.returned, c.seq, "acknowledged") for c in case.history.acknowledged()]
    for items in list(case.history.seen.values()):
        told += [(item.at, item.seq, "delivered") for item in items]
    for witness in case.history.witnesses:
        for at, seq, how in told:
            if at < witness.before and seq > witness.seq:
                yield f"P2: {seq} was {how} before the witness had more than {witness.seq}"
                break
        epochs = [g.epoch for g in case.history.grants if g.returned < witness.before]
        if max(epochs, default=0) > witness.epoch:
            yield f"P4: epoch {max(epochs)} was granted, the witness has {witness.epoch}"


def delivered(case: Case) -> Iterator[str]:
    """P1: each subscriber got 1, 2, 3, … with the log's digests, over all its connections."""
    digests = {entry.seq: entry.chain_digest.hex() for entry in case.entries}
    for name, items in case.history.seen.items():
        for number, item in enumerate(items, start=1):
            if item.seq != number:
                yield f"P1: {name} got entry {item.seq} where {number} is expected"
                break
            if digests.get(item.seq) != item.chain_digest:
                yield f"P1: {name} got another entry {item.seq} than the log's"
                break


def fresh(case: Case) -> Iterator[str]:
    """P5, P6: answers are under the position asked for or later, and it is one of the log's."""
    digests = {entry.seq: entry.chain_digest.hex() for entry in case.entries}
    digests[0] = bytes(32).hex()
    for answer in case.history.answers:
        if answer.seq < answer.min_seq:
            yield f"P5: {answer.replica} answered under {answer.seq}, asked for {answer.min_seq}"
        if digests.get(answer.seq) != answer.chain_digest:
            yield f"P6: {answer.replica} names another history at {answer.seq} than the log's"


def agreed(case: Case) -> Iterator[str]:
    """P7: equal positions have equal states, and states with other edits differ."""
    states: dict[tuple[str, int], Answer] = {}
    for answer in case.history.answers:
        if not answer.state_digest or answer.seq >= len(case.folded.active):
            continue
        before = states.setdefault((answer.role, answer.seq), answer)
        if before.state_digest != answer.state_digest:
            yield f"P7: {answer.replica} and {before.replica} differ at {answer.seq}"
    active_of: dict[tuple[str, str], tuple[tuple[str, ...], int]] = {}
    for (role, seq), answer in sorted(states.items(), key=lambda item: item[0]):
        active = case.folded.active[seq]
        known, where = active_of.setdefault((role, answer.state_digest), (active, seq))
        if known != active:
            yield f"P7: {role} has one digest at {where} and {seq}, with other edits"


def in_force(case: Case) -> Iterator[str]:
    """P9 to P11: replicas hold the edits that the log says are in force, and name no others."""
    for answer in case.history.answers:
        if answer.seq >= len(case.folded.active):
            continue
        active = case.folded.active[answer.seq]
        if answer.num_edits is not None and answer.num_edits != len(active):
            yield (
                f"P9: {answer.replica} holds {answer.num_edits} edits at {answer.seq}, the log "
                f"{len(active)}"
            )
        if not set(answer.edits) <= set(active):
            yield f"P11: {answer.replica} at {answer.seq} names {answer.edits}, not all in force"


def possible(case: Case) -> Iterator[str]:
    """P9, P11: edits go from requested to one end, and what was told agrees with the log."""
    yield from case.folded.problems
    for name, state in case.history.final_states.items():
        if case.folded.states.get(name) != state:
            yield f"P9: the writer says {name} is {state}, the log {case.folded.states.get(name)}"


CHECKS: tuple[Callable[[Case], Iterator[str]], ...] = (
    chained,
    real_time_order,
    nothing_lost,
    once_each,
    fenced,
    witnessed,
    delivered,
    fresh,
    agreed,
    in_force,
    possible,
)
