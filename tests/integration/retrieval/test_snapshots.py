"""Snapshots that the writer makes while the system runs, and readers that start from them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from errata.errors import CommitNotTrustedError, SeqTrimmedError
from errata.log.entries import SnapshotTaken
from errata.log.history import LogState
from errata.log.positions import ReplicaReport
from errata.log.remote import RemoteLog
from errata.log.signing.keys import SigningKey
from errata.log.subscriber import Subscriber
from errata.platform.server import open_channel
from errata.replica import follower
from errata.replica.snapshot import LEDGER, Manifest, contents_of
from errata.writer.signing import WriterKeys
from errata.writer.writer import Writer
from tests.integration.log.harness import eventually
from tests.integration.retrieval.stack import (
    FACTS,
    LANE,
    LIMITS,
    PROMPTS,
    Stack,
    answer_of,
    revert,
    submit,
)
from tests.integration.retrieval.test_compaction import CONFIGS
from tests.waiting import PATIENCE

SNAPSHOTS = LIMITS.model_copy(update={"snapshot_interval": 1, "snapshot_patience_seconds": 0.5})
ADAPLE = {"layers": [1, 2], "num_prefixes": 1, "covariance_samples": 20}
KEY = SigningKey.generate()
METHODS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "adaple": ("adaple", ADAPLE),
    "recipe": ("recipe", None),
    "elder": ("elder", CONFIGS["elder"]),
    "lemoe": ("lemoe", CONFIGS["lemoe"]),
}


@asynccontextmanager
async def writing(stack: Stack, name: str = "recipe", **more: Any) -> AsyncIterator[Writer]:
    method, config = METHODS[name]
    model = stack.lane_model() if method == "recipe" else None
    async with stack.writer(model, method, config=config, limits=SNAPSHOTS, **more) as writer:
        yield writer


async def newest(stack: Stack) -> SnapshotTaken | None:
    async with open_channel(stack.address) as channel:
        return (await RemoteLog(channel).state()).snapshot


async def snapshot_after(stack: Stack, seq: int = 0) -> SnapshotTaken:
    async def found() -> SnapshotTaken | None:
        named = await newest(stack)
        return named if named is not None and named.seq >= seq else None

    return await eventually(found, "a snapshot")


def manifest_of(stack: Stack, named: SnapshotTaken) -> Manifest:
    return Manifest.from_bytes(stack.store.load(named.manifest.digest))


def path_of(stack: Stack, digest: str) -> Path:
    return Path(stack.store.path_of(digest))


def starts(events: list[Any]) -> int:
    return len([event for event in events if event["event"] == "started from a snapshot"])


@pytest.mark.promise("P7")
@pytest.mark.parametrize("method", METHODS)
async def test_every_reader_starts_from_a_snapshot_and_goes_on_alike(
    stack: Stack, method: str
) -> None:
    async with stack.worker() as worker:
        async with writing(stack, method) as writer:
            names, seq = await submit(writer, *FACTS[:2])
            names += (await submit(writer, FACTS[2]))[0]
            seq = await revert(writer, names[0])
            named = await snapshot_after(stack, seq)
            assert named.verified_by == "worker"
            records = list(writer.ledger.records())
        manifest = manifest_of(stack, named)
        kept = {named.manifest.digest, *manifest.artifacts()}
        for path in (stack.folder / "artifacts").rglob("*.safetensors"):
            if path.stem not in kept:
                path.unlink()  # what only earlier entries name must not be fetched again
        with capture_logs() as events:
            async with (
                stack.worker() as fresh,
                stack.retrieval() as retrieval,
                writing(stack, method) as writer,
            ):
                assert starts(events) == 3
                assert list(writer.ledger.records()) == records
                more, _ = await submit(writer, FACTS[3])
                seq = await revert(writer, names[1])
                for prompt in PROMPTS:
                    there = await answer_of(worker, prompt, seq)
                    assert await answer_of(fresh, prompt, seq) == there
                await eventually(lambda: retrieval.latest.seq >= seq)
                digest = worker.engine.version.state_digest
                assert fresh.engine.version.state_digest == digest
                assert method == "adaple" or retrieval.latest.state_digest == digest
                assert writer.ledger.get(names[1]).revert_seq == seq
                assert writer.ledger.get(more[0]).commit_seq


def _unlink(path: Path) -> None:
    path.unlink()


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("group", "damage"),
    [
        ("manifest", _cut_short),
        ("manifest", _unlink),
        (contents_of(LANE), _flip),
        (contents_of(LANE), _unlink),
        (LEDGER, _cut_short),
    ],
)
async def test_a_damaged_snapshot_is_told_and_the_log_is_read_instead(
    stack: Stack, group: str, damage: Callable[[Path], None]
) -> None:
    async with stack.worker() as worker:
        async with writing(stack) as writer:
            await submit(writer, FACTS[0])
            _, seq = await submit(writer, FACTS[1])
            named = await snapshot_after(stack, seq)
            records = list(writer.ledger.records())
        parts = {"manifest": (named.manifest,), **manifest_of(stack, named).parts}
        damage(path_of(stack, parts[group][-1].digest))
        with capture_logs() as events:
            async with stack.worker() as fresh, stack.retrieval(), writing(stack) as writer:
                assert starts(events) == (2 if group == LEDGER else 0)
                told = [e for e in events if "the log is read from entry 1" in e["event"]]
                assert len(told) == (1 if group == LEDGER else 3)
                assert {event["log_level"] for event in told} == {"error"}
                assert list(writer.ledger.records()) == records
                digests = {each.engine.version.state_digest for each in (fresh, worker)}
                assert len(digests) == 1


async def test_where_the_log_was_trimmed_a_damaged_snapshot_ends_the_start(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stack.worker(), writing(stack) as writer:
        await submit(writer, FACTS[0])
        _, seq = await submit(writer, FACTS[1])
        named = await snapshot_after(stack, seq)
    path_of(stack, named.manifest.digest).unlink()
    told = RemoteLog.state

    async def trimmed(self: RemoteLog) -> LogState:
        state = await told(self)
        return LogState(state.log_id, state.head, 3, state.epoch, snapshot=state.snapshot)

    monkeypatch.setattr(RemoteLog, "state", trimmed)
    for start in (stack.worker, stack.retrieval):
        with pytest.raises(SeqTrimmedError, match="from a backup"):
            async with start():
                pass


async def test_nothing_is_named_that_no_replica_has(stack: Stack) -> None:
    with capture_logs() as events:
        async with writing(stack, "adaple") as writer, stack.retrieval():
            await submit(writer, FACTS[0])
            await submit(writer, FACTS[1])

            def warned() -> bool:
                return any(e["event"].startswith("no replica reported") for e in events)

            await eventually(warned, "the warning")
            assert await newest(stack) is None, "retrieval does not hold the lane"
            async with stack.worker():
                named = await snapshot_after(stack)
                assert named.verified_by == "worker"


async def test_a_replica_that_disagrees_keeps_a_snapshot_from_being_named(stack: Stack) -> None:
    with capture_logs() as events:
        # Alone: a worker that agrees could be heard before it.
        async with writing(stack) as writer, open_channel(stack.address) as channel:
            lying = asyncio.create_task(_lie(RemoteLog(channel), writer))
            try:
                await submit(writer, FACTS[0])
                await submit(writer, FACTS[1])

                def told() -> bool:
                    return any(event["log_level"] == "critical" for event in events)

                await eventually(told, "the alarm")
                assert await newest(stack) is None
            finally:
                lying.cancel()


async def _lie(log: RemoteLog, writer: Writer) -> None:
    """Reports each of the writer's positions with another state."""
    while True:
        at = writer._edited.position
        await log.report(ReplicaReport("liar", at, "0" * 64, "worker"), 5.0)
        await asyncio.sleep(0.01)


@pytest.mark.promise("P10")
async def test_a_pinned_replica_believes_a_snapshot_that_a_pinned_key_signed(
    stack: Stack, tmp_path: Path
) -> None:
    async with stack.worker(), writing(stack, keys=WriterKeys(KEY)) as writer:
        await submit(writer, FACTS[0])
        names, _ = await submit(writer, FACTS[1])
        seq = await revert(writer, names[0])
        await snapshot_after(stack, seq)
    pins = tmp_path / "pins"
    for key, expected in ((KEY, 1), (SigningKey.generate(), 0)):
        pins.write_text(key.key_id)
        with capture_logs() as events:
            try:
                async with stack.worker(trusted_keys_file=pins):
                    assert expected
            except CommitNotTrustedError:
                assert not expected, "then it reads the log, which begins with another key"
            assert starts(events) == expected


async def test_a_snapshot_that_no_entry_names_is_refused(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stack.worker(), writing(stack) as writer:
        await submit(writer, FACTS[0])
        _, seq = await submit(writer, FACTS[1])
        named = await snapshot_after(stack, seq)
    begin = follower.Follower.begin

    async def forged(self: Any, load: Any, restore: Any) -> None:
        await begin(self, load, restore)
        other = SnapshotTaken(named.seq, bytes(32), named.manifest, "", "", "nobody")
        self.reader.begin(self.reader.fold, other)

    monkeypatch.setattr(follower.Follower, "begin", forged)
    with pytest.raises(Exception, match="that no entry of the log names"):
        async with stack.worker():
            pass


def test_the_subscriber_of_the_whole_log_starts_before_it() -> None:
    subscriber = Subscriber("127.0.0.1:1", log_id="x")
    assert subscriber.another().position.seq == 0


@pytest.mark.promise("P7")
async def test_a_writer_restores_a_snapshot_as_it_was_although_it_has_read_on(
    stack: Stack,
) -> None:
    """Or signed entries behind it would be refused, and reversals behind it have no effect."""
    keys, model = WriterKeys(KEY), stack.lane_model()
    async with stack.worker() as worker, asyncio.timeout(PATIENCE):
        async with writing(stack, keys=keys) as writer:
            names, seq = await submit(writer, FACTS[0], FACTS[1])
            await snapshot_after(stack, seq)
        async with stack.writer(model, keys=keys) as writer:
            await revert(writer, names[0])
        async with stack.writer(model, keys=keys) as writer:
            assert writer._edited.begun_from_seq, "control: it starts from the snapshot"
            await submit(writer, FACTS[2])
            same = lambda: writer._applier.digest() == worker._applier.digest()  # noqa: E731
            await eventually(same, "the same state")
