"""Where a catalog begins: its own database, another log, the archive, a snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from errata.artifacts.store import ArtifactStore
from errata.log.entries import ArtifactRef, SnapshotTaken
from errata.log.fold import LogFold
from errata.log.payload_convert import decode
from errata.platform.settings import LogSettings
from errata.replica.snapshot import CapturedState
from errata.replica.snapshot_parts import make_manifest
from errata.writer.ledger import EditLedger
from errata.writer.ledger_pages import ledger_pages
from errata_client._gen.errata.v1 import catalog_pb2, editing_pb2
from errata_client.errors import OutOfRangeError
from tests.integration.catalog.rig import Rig, Served, edit
from tests.integration.log import entries
from tests.integration.log.harness import (
    RedisServer,
    eventually,
    log_settings,
    running_log,
    stream_failure,
)
from tests.integration.log.trimming import trimming
from tests.waiting import PATIENCE


async def snapshot_of(rig: Rig) -> int:
    """Names a snapshot of all entries in the log; the position up to which it goes."""
    store = ArtifactStore(str(rig.folder / "artifacts"))
    fold, ledger = LogFold(), EditLedger()
    chained = await rig.log.entries()
    for stored in chained:
        entry = decode(stored)
        fold.add(entry)
        await ledger.fold([entry])
    captured = CapturedState({}, {}, "ab" * 32, "ab" * 32)

    def put(page: bytes) -> ArtifactRef:
        return ArtifactRef(store.save(page), len(page))

    manifest = make_manifest(
        put,
        (await rig.log.head()).log_id,
        chained[-1].position,
        entries.BASE_MODEL,
        captured,
        fold,
        ledger_pages(ledger.capture()),
    )
    await rig.append(
        SnapshotTaken(
            manifest.position.seq,
            manifest.position.chain_digest,
            put(manifest.to_bytes()),
            manifest.state_digest,
            manifest.base_model_digest,
            "worker-1",
        )
    )
    return manifest.position.seq


async def filled(rig: Rig) -> list[str]:
    """Edits in several states."""
    names = await rig.request(
        *(edit(f"The capital of {k} Freedonia is") for k in range(4)), source="T-1"
    )
    await rig.append(entries.commit(*names[:2]))
    await rig.append(entries.reject(names[2]))
    await rig.append(entries.revert(names[0]))
    return names


async def all_edits(served: Served) -> list[editing_pb2.Edit]:
    return [each.edit for each in (await served.find()).edits]


@pytest.fixture
def settings(settings: LogSettings) -> LogSettings:
    return trimming(settings, trim_interval_seconds=0.05)


@pytest_asyncio.fixture
async def trimmed(rig: Rig) -> AsyncIterator[tuple[Rig, list[str], int]]:
    """A log whose first entries are in the archive alone, with an edit behind the snapshot."""
    names = await filled(rig)
    seq = await snapshot_of(rig)
    names += await rig.request(edit("The river of Freedonia is"))

    async def is_trimmed() -> bool:
        return bool((await rig.log.head()).floor_seq > seq)

    await eventually(is_trimmed, "the trim")
    yield rig, names, seq


async def test_archived_entries_are_read_first(trimmed: tuple[Rig, list[str], int]) -> None:
    rig, names, _ = trimmed
    async with rig.serving() as served:
        assert sorted(await served.names("freedonia")) == sorted(names)
        events = await served.events(from_seq=1)
        kinds = [
            catalog_pb2.Event.Kind.Name(event.kind).removeprefix("KIND_EDIT_") for event in events
        ]
        assert kinds == [
            *["REQUESTED"] * 4,
            *["COMMITTED"] * 2,
            "REJECTED",
            "REVERTED",
            "REQUESTED",
        ]
    async with rig.serving() as served:  # and a restart begins behind the floor
        assert sorted(await served.names("freedonia")) == sorted(names)


async def test_a_catalog_from_a_snapshot_knows_the_same_edits(
    trimmed: tuple[Rig, list[str], int],
) -> None:
    rig, names, seq = trimmed
    async with rig.serving("whole") as whole, rig.serving("late", start="snapshot") as late:
        assert await all_edits(late) == await all_edits(whole)
        assert late.catalog.events_from == seq + 1
        error = await stream_failure(
            late.stub.WatchEvents(catalog_pb2.WatchEventsRequest(from_seq=1), timeout=PATIENCE)
        )
        assert isinstance(error, OutOfRangeError)
        assert f"from {seq + 1:,} on" in error.message
        assert [each.edit for each in await late.events(from_seq=seq + 1)] == names[4:]
    await rig.append(entries.commit(names[3]))  # both go on where they were
    async with rig.serving("whole") as whole, rig.serving("late", start="snapshot") as late:
        assert await all_edits(late) == await all_edits(whole)
        assert late.catalog.events_from == seq + 1


async def test_a_database_of_another_log_is_made_again(rig: Rig, tmp_path: Path) -> None:
    await rig.request(edit("The capital of Freedonia is"))
    async with rig.serving() as served:
        assert len(await served.names()) == 1
    server = RedisServer(tmp_path / "other redis")
    server.start()
    try:
        async with running_log(log_settings(server, tmp_path / "other witness")) as log:
            other = await Rig.on(log, tmp_path)
            (name,) = await other.request(edit("The river of Sylvania is"))
            with capture_logs() as logged:
                async with other.serving() as served:
                    assert await served.names() == [name]
                    assert [event.edit for event in await served.events(from_seq=1)] == [name]
            assert any("made again" in line["event"] for line in logged)
    finally:
        server.close()


async def test_other_pinned_keys_check_all_entries_again(rig: Rig, tmp_path: Path) -> None:
    await rig.request(edit("The capital of Freedonia is"))
    async with rig.serving() as served:
        assert len(await served.names()) == 1
    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef\n")
    with capture_logs() as logged:
        async with rig.serving(trusted_keys_file=keys, unsigned_until_seq=100) as served:
            assert len(await served.names()) == 1
    assert any("made again" in line["event"] for line in logged)
