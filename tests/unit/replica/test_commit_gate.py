"""A real applier behind the gate: what is not trusted is refused before anything is fetched."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from errata.artifacts.store import ArtifactStore
from errata.editing.model.causal_lm import KnownLLM
from errata.errors import (
    ArtifactCorruptError,
    CommitNotTrustedError,
    LimitExceededError,
    StartupError,
)
from errata.indices.faiss_indices import FaissIndices
from errata.log.chain import Position
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    Entry,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
    Payload,
    Signed,
    SnapshotTaken,
)
from errata.log.fold import LogFold
from errata.log.signing.keys import SigningKey, fingerprint_of
from errata.log.signing.trust import Pins
from errata.platform.settings import WorkerSettings
from errata.replica.applier import Applier
from errata.replica.commit_gate import CommitGate, read_pins
from errata.replica.snapshot import Snapshot
from errata.replica.snapshot_parts import load_snapshot, make_manifest
from tests.unit.editing.recipe_models import make_edits, make_lane_model
from tests.unit.editing.tiny_models import make_model
from tests.unit.log.signed_log import COMMITS, LANE, SignedLog, trusting
from tests.unit.replica.test_lane_models import FACTS, Log, apply

KEY, NEW, STRANGER = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()


class _Watched:
    """Artifacts of a store, and what was asked for."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self.asked: list[str] = []

    async def get(self, digest: str, size_bytes: int | None = None) -> bytes:
        self.asked.append(digest)
        return await self._store.get(digest, size_bytes)


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A recipe lane with a lane model and a commit, made by the writer's code."""
    return asyncio.run(_unsigned(tmp_path_factory.mktemp("unsigned")))


async def _unsigned(folder: Path) -> Log:
    log = Log(make_model("llama"), ArtifactStore(str(folder)))
    await log.configure()
    await log.model(make_lane_model(log.llm))
    await log.commit(make_edits(*FACTS, seq=3))
    return log


def _signed(payloads: list[Payload], key: SigningKey) -> SignedLog:
    log = SignedLog()
    log.sign(trusting(key), key)
    for payload in payloads:
        if isinstance(payload, LaneConfigured):
            log.append(payload)
        else:
            assert isinstance(payload, EditsCommitted | LaneModelCommitted | LaneCompacted)
            log.sign(payload, key)
    return log


def _replica(log: Log, gate: CommitGate | None = None) -> tuple[Applier, _Watched]:
    watched = _Watched(log.store)
    llm = KnownLLM(log.llm.digest, torch.device("cpu"))
    return Applier(llm, watched, FaissIndices(), gate=gate), watched


async def _applied(entries: list[Entry], log: Log) -> Applier:
    applier, _ = _replica(log)
    for entry in entries:
        await apply(applier, entry)
    return applier


@pytest.mark.promise("P7")
async def test_state_digests_do_not_depend_on_signatures(unsigned: Log) -> None:
    payloads = [entry.payload for entry in unsigned.entries]
    plain = await _applied(unsigned.entries, unsigned)
    one = await _applied(_signed(payloads, KEY).entries, unsigned)
    other = await _applied(_signed(payloads, NEW).entries, unsigned)
    assert plain.digest() == one.digest() == other.digest() == unsigned.applier.digest()
    assert one.gate.state.last != other.gate.state.last


@pytest.mark.parametrize("kind", ["unsigned", "stranger", "changed", "repeated"])
async def test_a_commit_that_is_not_trusted_is_refused_before_anything_is_fetched(
    unsigned: Log, kind: str
) -> None:
    lane, model, commit = (entry.payload for entry in unsigned.entries)
    assert isinstance(commit, EditsCommitted)
    assert isinstance(model, LaneModelCommitted)
    log = _signed([lane, model], KEY)
    applier, watched = _replica(unsigned)
    for entry in log.entries:
        await apply(applier, entry)
    bad: dict[str, Payload] = {
        "unsigned": commit,
        "stranger": log.signed(commit, STRANGER),
        "changed": replace(log.signed(commit, KEY), artifact=model.model),  # type: ignore[call-arg]
        "repeated": log.entries[-1].payload,
    }
    before, asked = applier.digest(), list(watched.asked)
    with pytest.raises(CommitNotTrustedError) as refused:
        await applier.prepare(log.entry(bad[kind]))
    assert refused.value.metadata["seq"] == "4"
    assert (applier.digest(), watched.asked) == (before, asked)
    await apply(applier, log.entry(log.signed(commit, KEY)))  # it can go on with the right entry
    assert applier.num_edits == len(FACTS)


@pytest.mark.parametrize("commit", COMMITS)
async def test_every_kind_of_commit_is_checked(unsigned: Log, commit: Signed) -> None:
    applier, watched = _replica(unsigned)
    log = SignedLog()
    entry = log.sign(trusting(KEY), KEY)
    await apply(applier, entry)
    with pytest.raises(CommitNotTrustedError, match="is not signed"):
        await applier.prepare(log.entry(commit))
    assert not watched.asked


async def test_a_preparation_that_is_repeated_counts_once(unsigned: Log) -> None:
    log = _signed([entry.payload for entry in unsigned.entries], KEY)
    applier, _ = _replica(unsigned)
    for entry in log.entries:
        await applier.prepare(entry)  # as after an outage of the store
        await apply(applier, entry)
    assert applier.gate.state == log.trust


async def _snapshot(unsigned: Log, log: SignedLog, key: SigningKey | None) -> Snapshot:
    """A snapshot of a log, whose entry `key` signs."""
    applier, fold, store = await _applied(log.entries, unsigned), LogFold(), unsigned.store
    fold.seq, fold.trust, fold.lanes = len(log.entries), log.trust, {}
    for entry in log.entries:
        if isinstance(entry.payload, LaneConfigured):
            fold.lanes[entry.payload.lane] = entry.payload

    def put(page: bytes) -> ArtifactRef:
        return ArtifactRef(store.save(page), len(page))

    captured, at = applier.capture()(), Position(len(log.entries), bytes(32))
    manifest = make_manifest(put, "log", at, unsigned.llm.digest, captured, fold, ())
    ref = put(manifest.to_bytes())
    named = SnapshotTaken(
        at.seq, at.chain_digest, ref, manifest.state_digest, manifest.base_model_digest, "worker"
    )
    if key is not None:
        named = replace(named, signature=log.trust.signature(named, key))
    return await load_snapshot(store, named, None, holds=applier.holds, with_memory=False)


async def test_a_snapshot_keeps_trust(unsigned: Log) -> None:
    lane, model, commit = (entry.payload for entry in unsigned.entries)
    log = _signed([lane, model], KEY)
    restored, _ = _replica(unsigned)
    restored.restore(await _snapshot(unsigned, log, KEY))
    with pytest.raises(CommitNotTrustedError, match="is not signed"):
        await restored.prepare(log.entry(commit))
    assert isinstance(commit, EditsCommitted)
    await apply(restored, log.sign(commit, KEY))


async def test_pins_believe_a_snapshot_only_of_a_key_that_they_name(unsigned: Log) -> None:
    lane, model, _ = (entry.payload for entry in unsigned.entries)
    log = _signed([lane, model], KEY)
    log.sign(trusting(NEW), KEY)
    for key, pin, is_believed in (
        (KEY, KEY, True),
        (NEW, NEW, True),
        (NEW, KEY, False),  # trusted by the log, but who has not read it cannot tell
        (KEY, STRANGER, False),
        (STRANGER, STRANGER, False),
        (None, KEY, False),
    ):
        pins = Pins(frozenset({pin.key_id}))
        pinned, _ = _replica(unsigned, CommitGate(pins))
        snapshot = await _snapshot(unsigned, log, key)
        if is_believed:
            pinned.restore(snapshot)
            assert pinned.gate.state == replace(log.trust, pins=pins)
            continue
        with pytest.raises(CommitNotTrustedError, match="Add the writer's present key"):
            pinned.restore(snapshot)
        assert (pinned.gate.state.pins, pinned.gate.state.has_begun) == (pins, False)
    spoiled = await _snapshot(unsigned, log, KEY)
    named = replace(spoiled.named, verified_by="nobody")
    pinned, _ = _replica(unsigned, CommitGate(Pins(frozenset({KEY.key_id}))))
    with pytest.raises(CommitNotTrustedError, match="is not signed by a key"):
        pinned.restore(replace(spoiled, named=named))


async def test_artifacts_of_another_size_than_announced_are_refused(unsigned: Log) -> None:
    lane, model, _ = (entry.payload for entry in unsigned.entries)
    assert isinstance(model, LaneModelCommitted)
    small = replace(model.model, size_bytes=model.model.size_bytes - 1)
    huge = replace(model.model, size_bytes=2**62)
    for ref, kind in ((small, ArtifactCorruptError), (huge, LimitExceededError)):
        applier, _ = _replica(unsigned)
        await apply(applier, SignedLog().append(lane))
        with pytest.raises(kind):
            await applier.prepare(SignedLog().entry(replace(model, model=ref)))


def test_pins_are_read_from_a_file(tmp_path: Path) -> None:
    path, finger = tmp_path / "keys", fingerprint_of(NEW.public_key)
    path.write_text(f"# ours\n{KEY.key_id}\n\n{finger.upper()}  # the next one\n")
    settings = WorkerSettings(trusted_keys_file=path, unsigned_until_seq=7)
    assert read_pins(settings) == Pins(frozenset({KEY.key_id, finger}), 7)
    assert read_pins(WorkerSettings()) is None


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "abc\n", "not a key id, really!\n"])
def test_a_file_without_keys_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StartupError, match="trusted_keys_file"):
        CommitGate.of(WorkerSettings(trusted_keys_file=path))


def test_entries_that_do_not_matter_leave_trust_alone() -> None:
    gate, log = CommitGate(), SignedLog()
    lane = log.append(LANE)
    record = gate.check(lane)
    assert record is not None
    record()
    assert gate.check(lane) is None
