"""Backup of a real log: what it has, what it continues, and where it can be."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from errata.artifacts import ArtifactStore
from errata.errors import (
    DataLossError,
    LogBehindWitnessError,
    NotFoundError,
    PreconditionError,
    StartupError,
)
from errata.launch.backup import segments
from errata.launch.backup.restore import restore
from errata.log.chain import Position
from errata.log.subscriber import Subscriber
from errata.platform.settings import LogSettings, load_settings
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from tests.command_line import run_here
from tests.integration.log import entries as made
from tests.integration.log.backups import (
    backed_up,
    files_of,
    log_of,
    manifest_of,
    place,
    restored,
    with_commit,
)
from tests.integration.log.harness import (
    BASE_MODEL,
    RedisServer,
    RunningLog,
    append_request,
    failure,
    running_log,
    smuggle,
)
from tests.integration.log.history import judge_order
from tests.waiting import PATIENCE


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
