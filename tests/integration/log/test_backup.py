"""Backup and restore of a real log, with what can be wrong with a backup and its places."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from errata.artifacts import ArtifactStore
from errata.errors import (
    DataLossError,
    ErrataError,
    InvalidRequestError,
    LogBehindWitnessError,
    NotFoundError,
    PreconditionError,
    StartupError,
)
from errata.launch import repair
from errata.launch.backup import segments
from errata.launch.backup.create import Backup, back_up
from errata.launch.backup.folder import BackupFolder
from errata.launch.backup.manifest import Manifest, read_manifest
from errata.launch.backup.restore import Restored, restore
from errata.launch.lock import DataDirLock
from errata.log.chain import ChainedEntry, Position
from errata.log.restore import restoring
from errata.log.store import RedisLog
from errata.log.subscriber import Subscriber
from errata.platform.settings import LogSettings, load_settings
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from tests.command_line import run_here
from tests.integration.log import entries as made
from tests.integration.log.harness import (
    BASE_MODEL,
    RedisServer,
    RunningLog,
    append_request,
    connected,
    failure,
    judge_order,
    log_settings,
    running_log,
    smuggle,
)
from tests.waiting import PATIENCE

MAX_BYTES = 1_000_000


def place(folder: Path | str) -> BackupFolder:
    return BackupFolder(str(folder), max_artifact_bytes=MAX_BYTES)


async def backed_up(log: RunningLog, folder: Path | str, *, thorough: bool = False) -> Backup:
    return await back_up(
        log.address, place(folder), max_artifact_bytes=MAX_BYTES, thorough=thorough
    )


async def restored(folder: Path, data_dir: Path, at: int | None = None) -> Restored:
    settings = load_settings({"data_dir": data_dir})
    return await asyncio.to_thread(restore, place(folder), settings, at)


@asynccontextmanager
async def log_of(data_dir: Path) -> AsyncIterator[RunningLog]:
    """The log service of a restored deployment, as `errata up` would start it."""
    settings = load_settings({"data_dir": data_dir})
    with repair.running_log(settings, data_dir, "") as address:
        async with connected(address) as log:
            yield log


async def with_commit(log: RunningLog, store: ArtifactStore) -> int:
    """A lane, two edits, a commit of one that names an artifact; the epoch."""
    epoch = await log.acquire()
    await made.append(log, epoch, made.lane())
    seq = await made.append(log, epoch, made.request(num_edits=2))
    store.save(made.BYTES)
    await made.append(log, epoch, made.commit(f"edits/{seq}-0"))
    return epoch


@pytest.fixture
def store(settings: LogSettings) -> ArtifactStore:
    return ArtifactStore(str(settings.witness_path.parent / "artifacts"))


def manifest_of(folder: Path) -> Manifest:
    return read_manifest((folder / "manifest.json").read_bytes(), str(folder))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.promise("P2", "P3", "P4")
async def test_a_restored_log_has_the_same_entries_and_keeps_every_promise(
    log: RunningLog, store: ArtifactStore, tmp_path: Path
) -> None:
    epoch = await with_commit(log, store)
    request = append_request(epoch, comment="remembered")
    seq = (await log.stub.Append(request, timeout=PATIENCE)).seq
    original, head = await log.entries(), await log.head()
    backup = await backed_up(log, tmp_path / "backup")
    assert (backup.head_seq, backup.num_artifacts) == (head.head_seq, 1)
    assert manifest_of(tmp_path / "backup").base_model_digest == BASE_MODEL

    done = await restored(tmp_path / "backup", tmp_path / "new")
    assert done.from_log_id == head.log_id != done.log_id
    async with log_of(tmp_path / "new") as new:
        now = await new.head()
        assert (now.log_id, now.chain_digest) == (done.log_id, head.chain_digest)
        found = await new.entries()
        assert found == original
        judge_order(found)
        fenced = await failure(new.append(epoch, comment="a writer of the old log"))
        assert fenced.reason == "EPOCH_LOST"
        request.epoch = await new.acquire()
        assert request.epoch > epoch + 1_000
        again = await new.stub.Append(request, timeout=PATIENCE)
        assert (again.seq, again.duplicate) == (seq, True)
        request.payload.author = "someone else"
        other = await failure(new.stub.Append(request, timeout=PATIENCE))
        assert other.reason == "REQUEST_ID_REUSED"
        assert (await new.append(request.epoch, comment="goes on")).seq == head.head_seq + 1
        chunks = new.stub.GetArtifact(pb.GetArtifactRequest(digest=made.REF.digest))
        assert b"".join([answer.chunk async for answer in chunks]) == made.BYTES


async def test_replicas_of_the_old_log_refuse_the_restored_one(
    log: RunningLog, tmp_path: Path
) -> None:
    epoch = await log.acquire()
    for number in range(3):
        await log.append(epoch, comment=str(number))
    old = await log.head()
    await backed_up(log, tmp_path / "backup")
    await restored(tmp_path / "backup", tmp_path / "new")
    async with log_of(tmp_path / "new") as new:
        position = Position(old.head_seq, old.chain_digest)
        replica = Subscriber(new.address, position, log_id=old.log_id)
        with pytest.raises(LogBehindWitnessError, match="restored or replaced"):
            await anext(replica.batches())
        fresh = Subscriber(new.address)
        assert len((await anext(fresh.batches())).entries) == 3


@pytest.mark.parametrize("at", [1, 2, 4, None])
async def test_a_log_is_restored_up_to_a_position(
    log: RunningLog,
    store: ArtifactStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int | None,
) -> None:
    monkeypatch.setattr(segments, "MAX_ENTRIES", 2)
    epoch = await with_commit(log, store)
    for number in range(2):
        await log.append(epoch, comment=str(number))
    original = await log.entries()
    await backed_up(log, tmp_path / "backup")
    assert len(manifest_of(tmp_path / "backup").segments) == 3
    done = await restored(tmp_path / "backup", tmp_path / "new", at)
    until = at or len(original)
    assert (done.head_seq, done.num_artifacts) == (until, int(until >= 3))
    assert (tmp_path / "new/artifacts").exists() == (until >= 3)
    async with log_of(tmp_path / "new") as new:
        assert await new.entries() == original[:until]
        assert (await new.append(await new.acquire(), comment="another way")).seq == until + 1


async def test_a_second_backup_copies_only_what_is_new(
    log: RunningLog, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MAX_ENTRIES", 2)
    epoch = await with_commit(log, store)  # one full segment, and one of one entry
    folder = tmp_path / "backup"
    await backed_up(log, folder)
    first, before = manifest_of(folder), files_of(folder)
    nothing = await backed_up(log, folder)
    assert (nothing.new_entries, nothing.new_artifacts, nothing.new_bytes) == (0, 0, 0)
    assert manifest_of(folder).segments == first.segments
    for number in range(4):
        await log.append(epoch, comment=str(number))
    second = await backed_up(log, folder)
    assert (second.new_entries, second.new_artifacts) == (4, 0)
    now, after = manifest_of(folder), files_of(folder)
    assert now.segments[0] == first.segments[0]
    assert len(now.segments) == 4
    kept = f"segments/{first.segments[0].digest}.segment"
    assert after[kept] == before[kept]
    assert f"segments/{first.segments[1].digest}.segment" not in after
    assert len([name for name in after if name.startswith("segments/")]) == 4
    await restored(folder, tmp_path / "new")


async def test_a_backup_is_consistent_while_entries_are_appended(
    log: RunningLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MAX_ENTRIES", 7)
    epoch = await log.acquire()
    stop = asyncio.Event()

    async def load() -> int:
        number = 0
        while not stop.is_set():
            await log.append(epoch, comment=str(number))
            number += 1
        return number

    appending = asyncio.create_task(load())
    heads = []
    for _ in range(5):
        before = (await log.head()).head_seq
        done = await backed_up(log, tmp_path / "backup")
        after = (await log.head()).head_seq
        assert before <= done.head_seq <= after
        heads.append(done.head_seq)
        await asyncio.sleep(0)
    stop.set()
    assert await appending > heads[0]
    await restored(tmp_path / "backup", tmp_path / "new")
    original = await log.entries()
    async with log_of(tmp_path / "new") as new:
        assert await new.entries() == original[: heads[-1]]


async def test_an_interrupted_backup_is_none_and_can_be_taken_up(
    log: RunningLog, store: ArtifactStore, tmp_path: Path
) -> None:
    """The artifact of the commit is missing, so the backup ends before its manifest."""
    await with_commit(log, store)
    path = Path(store.path_of(made.REF.digest))
    path.rename(tmp_path / "away")
    folder = tmp_path / "backup"
    with pytest.raises(DataLossError, match=made.REF.digest):
        await backed_up(log, folder)
    with pytest.raises(NotFoundError, match="holds no backup"):
        await restored(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "away").rename(path)
    await backed_up(log, folder)
    await restored(folder, tmp_path / "new")


async def test_entries_that_readers_skip_are_copied_without_their_artifacts(
    redis_server: RedisServer, settings: LogSettings, store: ArtifactStore, tmp_path: Path
) -> None:
    """A commit that came into Redis behind the log's back names an artifact that nobody has."""
    async with running_log(settings) as log:
        await with_commit(log, store)
    lost = made.commit("edits/99-0", artifact=made.ArtifactRef("ef" * 32, 5))
    message = made.message(lost)
    seq = smuggle(redis_server, message.SerializeToString(), b"\xff no message")
    async with running_log(settings) as log:
        original, head = await log.entries(), await log.head()
        assert [entry.seq for entry in head.impossible_entries] == [seq - 1, seq]
        await backed_up(log, tmp_path / "backup")
    done = await restored(tmp_path / "backup", tmp_path / "new")
    assert done.num_artifacts == 1
    async with log_of(tmp_path / "new") as new:
        assert await new.entries() == original
        found = await new.head()
        assert [entry.seq for entry in found.impossible_entries] == [seq - 1, seq]


Damage = Callable[[Path, Manifest], None]


def _segment(folder: Path, manifest: Manifest) -> Path:
    return folder / "segments" / f"{manifest.segments[0].digest}.segment"


def _artifact(folder: Path) -> Path:
    digest = made.REF.digest
    return folder / "artifacts" / digest[:2] / f"{digest}.safetensors"


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _newer(path: Path) -> None:
    from errata.launch.backup import manifest as form

    said = json.loads(path.read_bytes())
    del said["sha256"]
    said |= {"format": form.FORMAT + 1, "more": True}
    path.write_text(json.dumps({"sha256": form._digest(said), **said}))


DAMAGES: dict[str, tuple[Damage, type[ErrataError], str]] = {
    "no manifest": (lambda f, m: (f / "manifest.json").unlink(), NotFoundError, "holds no backup"),
    "manifest cut": (lambda f, m: _cut(f / "manifest.json"), DataLossError, "manifest"),
    "manifest flipped": (lambda f, m: _flip(f / "manifest.json"), DataLossError, "manifest"),
    "newer format": (lambda f, m: _newer(f / "manifest.json"), PreconditionError, "upgrade"),
    "no segment": (lambda f, m: _segment(f, m).unlink(), DataLossError, "no such file"),
    "segment cut": (lambda f, m: _cut(_segment(f, m)), DataLossError, "entries 1 to 3"),
    "segment flipped": (lambda f, m: _flip(_segment(f, m)), DataLossError, "entries 1 to 3"),
    "no artifact": (lambda f, m: _artifact(f).unlink(), DataLossError, made.REF.digest),
    "artifact cut": (lambda f, m: _cut(_artifact(f)), DataLossError, made.REF.digest),
    "artifact flipped": (lambda f, m: _flip(_artifact(f)), DataLossError, made.REF.digest),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_backup_is_refused_and_nothing_is_made(
    log: RunningLog, store: ArtifactStore, tmp_path: Path, damage: str
) -> None:
    await with_commit(log, store)
    folder = tmp_path / "backup"
    await backed_up(log, folder)
    spoil, kind, says = DAMAGES[damage]
    spoil(folder, manifest_of(folder))
    before = files_of(folder)
    with pytest.raises(kind, match=says) as caught:
        await restored(folder, tmp_path / "new")
    assert type(caught.value) is kind
    assert not (tmp_path / "new").exists()
    assert files_of(folder) == before


@pytest.mark.parametrize("damage", [x for x in DAMAGES if "segment" in x or "artifact" in x])
async def test_a_thorough_backup_mends_damaged_files(
    log: RunningLog, store: ArtifactStore, tmp_path: Path, damage: str
) -> None:
    await with_commit(log, store)
    folder = tmp_path / "backup"
    await backed_up(log, folder)
    DAMAGES[damage][0](folder, manifest_of(folder))
    await backed_up(log, folder, thorough=True)
    await restored(folder, tmp_path / "new")


async def test_a_backup_of_a_newer_format_or_damaged_is_not_continued(
    log: RunningLog, tmp_path: Path
) -> None:
    await log.acquire()
    folder = tmp_path / "backup"
    await backed_up(log, folder)
    _newer(folder / "manifest.json")
    before = files_of(folder)
    with pytest.raises(PreconditionError, match="upgrade"):
        await backed_up(log, folder)
    assert files_of(folder) == before


@pytest.mark.parametrize("at", [0, -1, 4])
async def test_a_position_that_the_backup_lacks_is_refused(
    log: RunningLog, store: ArtifactStore, tmp_path: Path, at: int
) -> None:
    await with_commit(log, store)
    await backed_up(log, tmp_path / "backup")
    with pytest.raises(InvalidRequestError, match="holds the entries 1 to 3") as caught:
        await restored(tmp_path / "backup", tmp_path / "new", at)
    assert caught.value.field == "at"
    assert not (tmp_path / "new").exists()


async def test_a_place_that_cannot_be_written_is_refused(log: RunningLog, tmp_path: Path) -> None:
    epoch = await log.acquire()
    (tmp_path / "file").write_text("in the way")
    for _ in range(2):  # without entries, and with one
        with pytest.raises(StartupError, match=r"cannot be written|cannot be read"):
            await backed_up(log, tmp_path / "file" / "backup")
        await log.append(epoch)
    with pytest.raises(StartupError, match="cannot be opened"):
        await backed_up(log, "nowhere://backup")
    assert (tmp_path / "file").read_text() == "in the way"


async def test_a_backup_of_another_log_is_not_continued(
    log: RunningLog, store: ArtifactStore, tmp_path: Path
) -> None:
    await with_commit(log, store)
    folder = tmp_path / "backup"
    await backed_up(log, folder)
    await restored(folder, tmp_path / "new")
    before = files_of(folder)
    async with log_of(tmp_path / "new") as new:
        with pytest.raises(PreconditionError, match="holds a backup of log"):
            await backed_up(new, folder)
        assert files_of(folder) == before
        await backed_up(new, tmp_path / "another")


async def test_a_system_that_is_not_running_is_backed_up_by_its_folder(
    log: RunningLog, store: ArtifactStore, tmp_path: Path
) -> None:
    await with_commit(log, store)
    original = await log.entries()
    await backed_up(log, tmp_path / "backup")
    await restored(tmp_path / "backup", tmp_path / "new")
    words = ["backup", str(tmp_path / "second"), "--data-dir", str(tmp_path / "new")]
    done = await asyncio.to_thread(run_here, words)
    assert done.returncode == 0, done.stderr
    assert "up to entry 3" in done.stdout
    words = ["restore", str(tmp_path / "second"), "--data-dir", str(tmp_path / "third")]
    done = await asyncio.to_thread(run_here, words)
    assert done.returncode == 0, done.stderr
    assert "restored 3 entries and 1 artifacts" in done.stdout
    async with log_of(tmp_path / "third") as third:
        assert await third.entries() == original


async def test_a_folder_without_a_log_is_not_backed_up(tmp_path: Path) -> None:
    words = ["backup", str(tmp_path / "backup"), "--data-dir", str(tmp_path / "typing-error")]
    done = await asyncio.to_thread(run_here, words)
    assert done.returncode == 1
    assert "holds no log" in done.stderr
    assert not list(tmp_path.iterdir())


async def test_a_backup_can_be_in_any_file_system(
    log: RunningLog, store: ArtifactStore, tmp_path: Path
) -> None:
    await with_commit(log, store)
    url = f"memory://{tmp_path.name}"
    await backed_up(log, url)
    again = await backed_up(log, url, thorough=True)
    assert again.new_bytes == 0
    settings = load_settings({"data_dir": tmp_path / "new"})
    done = await asyncio.to_thread(restore, place(url), settings, None)
    assert (done.head_seq, done.num_artifacts) == (3, 1)


async def test_a_log_that_lost_entries_does_not_replace_its_backup(
    redis_server: RedisServer, settings: LogSettings, tmp_path: Path
) -> None:
    """Redis and witness are set back together, as a restored disk image would be."""
    folder = tmp_path / "backup"
    async with running_log(settings) as log:
        epoch = await log.acquire()
        await log.append(epoch, comment="1")
    redis_server.kill()
    shutil.copytree(redis_server.folder, tmp_path / "image")
    witness = settings.witness_path.read_bytes()
    redis_server.start()
    async with running_log(settings) as log:
        for comment in ("2", "3"):
            await log.append(epoch, comment=comment)
        await backed_up(log, folder)
    redis_server.kill()
    shutil.rmtree(redis_server.folder)
    (tmp_path / "image").rename(redis_server.folder)
    settings.witness_path.write_bytes(witness)
    redis_server.start()
    before = files_of(folder)
    async with running_log(settings) as log:
        with pytest.raises(LogBehindWitnessError, match="lost entries"):
            await backed_up(log, folder)
        for comment in ("another 2", "another 3", "another 4"):
            await log.append(epoch, comment=comment)
        with pytest.raises(LogBehindWitnessError, match="does not continue the backup"):
            await backed_up(log, folder)
    assert files_of(folder) == before


async def test_a_restore_into_a_deployment_with_a_log_is_refused(
    log: RunningLog, store: ArtifactStore, tmp_path: Path
) -> None:
    await with_commit(log, store)
    await backed_up(log, tmp_path / "backup")
    new = tmp_path / "new"
    new.mkdir()
    (new / "signing-key.pem").write_text("a key that the operator put there")
    first = await restored(tmp_path / "backup", new)
    before = files_of(new)
    with pytest.raises(PreconditionError, match="only into an empty deployment"):
        await restored(tmp_path / "backup", new)
    assert files_of(new) == before
    (new / "witness").unlink()
    with pytest.raises(PreconditionError, match="redis"):
        await restored(tmp_path / "backup", new)
    (new / "witness").write_bytes(before["witness"])
    async with log_of(new) as running:
        assert (await running.head()).log_id == first.log_id


async def test_a_restore_into_a_folder_in_use_is_refused(
    log: RunningLog, store: ArtifactStore, tmp_path: Path
) -> None:
    await with_commit(log, store)
    await backed_up(log, tmp_path / "backup")
    new = tmp_path / "new"
    new.mkdir()
    lock = DataDirLock(new, "another system")
    try:
        with pytest.raises(StartupError, match="in use by another system"):
            await restored(tmp_path / "backup", new)
        assert {path.name for path in new.iterdir()} == {"lock"}
    finally:
        lock.release()
    await restored(tmp_path / "backup", new)


async def some_entries(settings: LogSettings) -> list[ChainedEntry]:
    async with running_log(settings) as log:
        epoch = await log.acquire()
        for number in range(4):
            await log.append(epoch, comment=str(number))
        return await log.entries()


@pytest.fixture
def empty(redis_server: RedisServer, tmp_path: Path) -> LogSettings:
    """Settings of an empty log in the same Redis."""
    return log_settings(redis_server, tmp_path / "new" / "witness", key_prefix="new")


async def test_a_failed_restore_leaves_redis_and_witness_empty(
    redis_server: RedisServer, settings: LogSettings, empty: LogSettings
) -> None:
    entries = await some_entries(settings)
    before = sorted(redis_server.client.keys())
    changed = ChainedEntry(2, entries[1].payload + b"\0", entries[1].chain_digest)

    async def fill() -> None:
        async with restoring(empty) as log:
            await log.announce(Position(4, entries[3].chain_digest), 1)
            await log.add(entries[:1])
            await log.add([changed])

    with pytest.raises(LogBehindWitnessError):
        await fill()
    assert sorted(redis_server.client.keys()) == before
    assert not empty.witness_path.exists()
    async with running_log(empty) as new:
        assert (await new.head()).head_seq == 0


async def test_a_restore_into_a_redis_with_a_log_is_refused(
    redis_server: RedisServer, settings: LogSettings, tmp_path: Path
) -> None:
    await some_entries(settings)
    before = redis_server.client.xrange("{errata}:stream")
    other = log_settings(redis_server, tmp_path / "other" / "witness")
    with pytest.raises(PreconditionError, match="holds a log"):
        async with restoring(other):
            pass
    assert redis_server.client.xrange("{errata}:stream") == before
    assert not other.witness_path.exists()
    with pytest.raises(PreconditionError, match="is of log"):
        async with restoring(settings):
            pass
    async with running_log(settings) as log:
        assert (await log.head()).head_seq == 4


_KILLED = """
import asyncio, os, sys
from errata.log.chain import ChainedEntry, Position
from errata.log.restore import restoring
from errata.platform.settings import LogSettings

async def main():
    entries = [ChainedEntry(n, bytes.fromhex(p), bytes.fromhex(d)) for n, p, d in eval(sys.argv[2])]
    async with restoring(LogSettings.model_validate_json(sys.argv[1])) as log:
        await log.announce(Position(len(entries), entries[-1].chain_digest), 1)
        await log.add(entries[:2])
        os._exit(9)

asyncio.run(main())
"""


async def test_a_killed_restore_leaves_a_log_that_no_service_opens(
    redis_server: RedisServer, settings: LogSettings, empty: LogSettings
) -> None:
    entries = await some_entries(settings)
    rows = [(entry.seq, entry.payload.hex(), entry.chain_digest.hex()) for entry in entries]
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, empty.model_dump_json(), repr(rows)], timeout=PATIENCE
    )
    assert killed.returncode == 9
    with pytest.raises(LogBehindWitnessError, match="holds no log"):
        await RedisLog.open(empty)
    empty.witness_path.unlink()
    async with restoring(empty) as log:  # what waits in Redis is removed
        await log.announce(Position(4, entries[3].chain_digest), 1)
        await log.add(entries)
        await log.finish()
    async with running_log(empty) as new:
        assert await new.entries() == entries
