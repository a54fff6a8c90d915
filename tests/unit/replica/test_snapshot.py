"""A process that starts from a snapshot is one that has read the log from its first entry."""

from __future__ import annotations

import asyncio
import random

import pytest

from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM, KnownLLM
from errata.editing.model.scratch import ScratchLLM
from errata.log.canary_entries import Outcome
from errata.log.entries import EditsReverted, Entry
from errata.log.reader import EntryReader
from errata.replica.applier import Applier
from errata.replica.apply import apply
from errata.replica.snapshot import CapturedState, Manifest
from tests.unit.editing.tiny_models import make_model
from tests.unit.replica.histories import (
    CONFIGS,
    NAMESPACED,
    PROMPTS,
    TARGETS,
    History,
    fitted,
    weights_digest,
)

SEEDS = (1, 3)
_STEPS = 14


@pytest.fixture(scope="module", params=SEEDS)
def history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> History:
    """A random history that has at least one commit in each lane, and canaries."""

    async def make() -> History:
        made = History(tmp_path_factory.mktemp("history"), request.param)
        await made.begin()
        for lane in CONFIGS:
            await made.edit(f"lanes/{lane}", 2)
        for lane in NAMESPACED:
            await made.set_or_end_canary(lane)
        await made.grow(_STEPS)
        for lane, outcome in zip(NAMESPACED, Outcome, strict=True):
            await made.end_canary(lane, outcome)
            await made.edit(lane, 1)
        return made

    return asyncio.run(make())


def _positions(history: History) -> list[int]:
    """Positions to take snapshots at: of all lanes' first commits, and a random one."""
    first = len(CONFIGS) * 3 + 1
    return [first, random.Random(len(history.steps)).randint(first + 1, len(history.steps) - 1)]


@pytest.mark.promise("P7")
async def test_a_replica_from_a_snapshot_equals_one_from_the_first_entry(history: History) -> None:
    for seq in _positions(history):
        whole = await history.replayed(history.gathered(keep_memory=True), seq)
        named = await history.named(history.take(whole, seq))
        started = history.new_applier()
        started.restore(await history.load(named, started, False))
        assert started.num_edits_by_lane() == whole.num_edits_by_lane()
        for step in history.steps[seq:]:
            await apply(whole, step.entry)
            await apply(started, step.entry)
            assert started.digest() == whole.digest(), (seq, step.entry)
            assert started.canaries.open == whole.canaries.open
            assert started.canaries.canary_of == whole.canaries.canary_of
            assert weights_digest(started.model) == weights_digest(whole.model)
            _check_same_claims(started, whole)
        await _check_reversals(history, started, whole)


@pytest.mark.promise("P7")
async def test_the_writers_later_fits_give_the_same_bytes(history: History) -> None:
    seq = _positions(history)[1]
    whole = await history.replayed(history.gathered(keep_memory=True), seq)
    named = await history.named(history.take(whole, seq))
    started = history.gathered(keep_memory=True)
    started.restore(await history.load(named, started, True))
    for step in history.steps[seq:]:
        await apply(whole, step.entry)
        await apply(started, step.entry)
    for lane in CONFIGS:
        edits = [
            Edit(f"edits/900-{n}", PROMPTS[n], TARGETS[-n], PROMPTS[n].split()[-1]) for n in (1, 2)
        ]
        one, other = (fitted(each, f"lanes/{lane}", edits) for each in (started, whole))
        assert one.artifact.to_bytes() == other.artifact.to_bytes(), lane
        assert (one.memory and one.memory.to_bytes()) == (other.memory and other.memory.to_bytes())
    later = history.take(started, len(history.steps))
    assert later.to_bytes() == history.take(whole, len(history.steps)).to_bytes()


@pytest.mark.promise("P7")
async def test_a_process_without_weights_starts_from_the_same_snapshot(history: History) -> None:
    seq = _positions(history)[1]
    named = await history.named(history.take(await _replica(history, seq), seq))
    llm = KnownLLM(history.llm.digest, history.llm.device)
    whole = await history.replayed(history.new_applier(llm), seq)
    started = history.new_applier(llm)
    snapshot = await history.load(named, started, False)
    assert snapshot.lanes.keys() == {f"lanes/{name}" for name in ("recipe", "elder", "lemoe")}
    started.restore(snapshot)
    for step in history.steps[seq:]:
        await apply(whole, step.entry)
        await apply(started, step.entry)
        assert started.digest() == whole.digest()


async def test_a_snapshot_is_checked_beside_a_model_that_goes_on(history: History) -> None:
    seq = _positions(history)[1]
    replica = await _replica(history, seq)
    manifest, before = history.take(replica, seq), weights_digest(replica.model)
    assert isinstance(replica.model, CausalLM)
    scratch = ScratchLLM(replica.model, replica.base_weights())
    beside = history.new_applier(scratch)
    beside.restore(await history.load(await history.named(manifest), beside, False))
    assert beside.digest() == replica.digest()
    assert weights_digest(replica.model) == before


@pytest.mark.promise("P7", "P11")
async def test_a_snapshot_stays_as_it_was_while_its_reader_goes_on(history: History) -> None:
    """A writer folds what follows before it restores the lanes; a reversal was then skipped."""

    async def none() -> list[int]:
        return []

    seq = _positions(history)[0]
    replica = await _replica(history, seq)
    started = history.new_applier()
    named = await history.named(history.take(replica, seq))
    snapshot = await history.load(named, started, False)
    reader = EntryReader(none)
    reader.begin(snapshot.fold, named)
    reversal = _reversal(history, snapshot.fold.active("lanes/recipe")[0])
    reader.fold.add(reversal)
    started.restore(snapshot)
    assert started.digest() == replica.digest()
    before = replica.digest()
    for applier in (replica, started):
        await apply(applier, reversal)
    assert started.digest() == replica.digest() != before


async def test_what_did_not_change_is_shared_with_the_snapshot_before(history: History) -> None:
    seq = _positions(history)[0]
    replica = await _replica(history, seq)
    first = set(history.take(replica, seq).artifacts())
    name = history.steps[seq - 1].fold.active("lanes/recipe")[0]
    await apply(replica, _reversal(history, name))
    second = set(history.take(replica, seq).artifacts())
    changed = second - first
    assert 1 <= len(changed) <= 2, "the lane's rows, and nothing of the others"


async def test_a_snapshot_that_does_not_restore_leaves_the_applier_as_it_was(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    seq = _positions(history)[1]
    replica = await _replica(history, seq)
    capture = replica.capture()

    def other_digest() -> CapturedState:
        state = capture()
        return CapturedState(state.lanes, state.commit_seq, "0" * 64, state.routed_digest)

    monkeypatch.setattr(replica, "capture", lambda: other_digest)
    named = await history.named(history.take(replica, seq))
    started = history.new_applier()
    bits = weights_digest(started.model)
    snapshot = await history.load(named, started, False)
    with pytest.raises(Exception, match="differs from the one"):
        started.restore(snapshot)
    assert weights_digest(started.model) == bits
    await history.replayed(started, seq)
    assert started.digest() == replica.digest()


def test_a_manifest_names_everything_that_it_needs() -> None:
    manifest = Manifest.from_bytes(_MANIFEST)
    assert manifest.to_bytes() == _MANIFEST
    assert list(manifest.artifacts()) == ["a" * 64, "b" * 64, "c" * 64]


_MANIFEST = Manifest.from_bytes(
    b'{"format":"errata-snapshot","version":1,"log_id":"x","seq":3,"chain_digest":"00",'
    b'"base_model_digest":"m","state_digest":"s","routed_digest":"r",'
    b'"lane_models":{"lanes/a":"' + b"a" * 64 + b'","lanes/b":""},'
    b'"parts":{"fold":[["' + b"b" * 64 + b'",1],["' + b"c" * 64 + b'",2]]}}'
).to_bytes()


async def _replica(history: History, seq: int) -> Applier:
    return await history.replayed(history.new_applier(keep_memory=True), seq)


def _reversal(history: History, *names: str) -> Entry:
    last = history.steps[-1].entry
    return Entry(last.seq + 1, "later", last.append_time, "test", EditsReverted(names, ""))


async def _check_reversals(history: History, *appliers: Applier) -> None:
    """Reverting every edit, oldest first, goes through the same states."""
    standings = history.fold.standings()
    for name in [n for n, (_, at, _) in standings.items() if at.value == "committed"]:
        for applier in appliers:
            await apply(applier, _reversal(history, name))
        assert len({applier.digest() for applier in appliers}) == 1
        assert len({weights_digest(applier.model) for applier in appliers}) == 1
    assert weights_digest(appliers[0].model) == make_model("llama").digest


def _check_same_claims(one: Applier, other: Applier) -> None:
    tables = one.routing(), other.routing()
    assert (tables[0] is None) == (tables[1] is None)
    if tables[0] is not None and tables[1] is not None:
        assert tables[0].claims(PROMPTS) == tables[1].claims(PROMPTS)
        plans = [table.route(PROMPTS) for table in tables if table is not None]
        assert [p.edits for p in plans[0]] == [p.edits for p in plans[1]]
